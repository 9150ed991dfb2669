"""Detection and instance segmentation as a task."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from pycocotools import mask as codec
from torch import Tensor, nn

from ssm_train.tasks.base import Labels, Size
from ssm_train.tasks.detection.metric import as_text
from ssm_train.tasks.detection.predictions import CocoResultWriter, run_lengths_of
from ssm_train.tasks.pipelines import PipelineTask
from ssm_train.tasks.tiles import Tiles, tiled_config

# Numbers of boxes and of masks. mmdet assumes the same when it counts the operations of a two-stage detector.
PROPOSALS, MASKS = 1000, 100
_NMS = {"type": "nms", "iou_threshold": 0.5}  # of models that suppress no boxes themselves
_OBJECTS = ("pred_instances", "gt_instances")  # what of a sample is drawn
_COCO_SCALE, _COCO_SIZE = (800, 1333), (800, 1280)


class Detection(PipelineTask):
    """Finds objects in an image: their boxes, and their masks if the model has a head for masks."""

    drawing: ClassVar[dict[str, Any]] = {"pred_score_thr": 0.0}  # `select` has dropped what is unsure

    flips: ClassVar[tuple[str, ...]] = ("horizontal", "vertical", "diagonal")

    # Region proposals have no classes, and denoising queries those of the head.
    without_classes: ClassVar[tuple[str, ...]] = ("backbone", "rpn_head", "dn_query_generator")

    def default_size(self) -> Size:
        """Height and width. COCO's test images have at most 800 × 1333, but cost is usually reported for 800 × 1280."""
        size = super().default_size()
        return _COCO_SIZE if size == _COCO_SCALE else size

    def measure(
        self,
        model: nn.Module,
        inputs: Tensor,  # [B, C, H, W]
    ) -> None:
        """Run the backbone, the neck and every head. Those of the second stage get a fixed number of boxes."""
        if not hasattr(model, "roi_head"):
            size = tuple(inputs.shape[2:])
            sample = DetDataSample(metainfo={"img_shape": size, "batch_input_shape": size})
            model(inputs, [sample] * len(inputs), mode="tensor")
            return
        maps = model.extract_feat(inputs)
        model.rpn_head(maps)
        heads = model.roi_head
        parts = [(heads.bbox_roi_extractor, heads.bbox_head, PROPOSALS)]
        if heads.with_mask:
            parts.append((heads.mask_roi_extractor, heads.mask_head, MASKS))
        # A box decides which level its features are taken from, but the size of the features is always the same.
        for extractor, head, count in parts:
            stages = zip(extractor, head, strict=True) if isinstance(head, nn.ModuleList) else ((extractor, head),)
            for stage_extractor, stage_head in stages:
                size = stage_extractor.roi_layers[0].output_size
                stage_head(inputs.new_zeros(count * len(inputs), stage_extractor.out_channels, *size))

    def scores(self, prediction: BaseDataElement) -> list[float]:
        """The scores of the objects, see :meth:`.ImageTask.scores`."""
        scores: list[float] = prediction.pred_instances.scores.tolist()
        return scores

    def select(self, prediction: BaseDataElement, min_score: float) -> BaseDataElement:
        """Drop the objects whose score is below ``min_score``."""
        found = prediction.pred_instances
        prediction.pred_instances = found[found.scores >= min_score]
        return prediction

    def as_arrays(self, prediction: BaseDataElement, labels: Labels) -> dict[str, Any]:
        """Boxes, scores, classes and masks of the objects, see :meth:`.ImageTask.as_arrays`."""
        found = prediction.pred_instances
        numbers = found.labels.cpu().numpy()
        arrays: dict[str, Any] = {
            "boxes": found.bboxes.float().cpu().numpy(),
            "scores": found.scores.float().cpu().numpy(),
            "labels": numbers,
            "names": [labels.name(number) for number in numbers.tolist()],
        }
        if isinstance(masks := found.get("masks"), Tensor):
            arrays["masks"] = masks.cpu().numpy()
        elif masks is not None:
            arrays["run_lengths"] = masks
        return arrays

    def as_data(self, prediction: BaseDataElement, labels: Labels) -> dict[str, Any]:
        """Class, score, box (left, top, right, bottom in pixels) and the run lengths of a mask of every object."""
        found = prediction.pred_instances
        names = [labels.name(i) for i in found.labels.tolist()]
        boxes = [[round(value, 2) for value in box] for box in found.bboxes.tolist()]
        scores = [round(score, 5) for score in found.scores.tolist()]
        columns = zip(names, scores, boxes, strict=True)
        objects = [{"class": name, "score": score, "box": box} for name, score, box in columns]
        if "masks" in found:
            for item, mask in zip(objects, run_lengths_of(found.masks), strict=True):
                item["mask"] = as_text(mask)
        return {"objects": objects}

    def merging(self) -> dict[str, Any]:
        """Suppression of boxes by the thresholds of the model's own test, see :meth:`.PipelineTask.merging`."""
        settings = {"nms": self._own_test.get("nms") or dict(_NMS), "max_per_img": self._own_test["max_per_img"]}
        return {"type": "ssm_train.tasks.detection.AugmentedDetector", "tta_cfg": settings}

    def tiled(self, tiles: Tiles) -> Config:
        """Copy the config, with a detector of tiles in the copy, see :meth:`.Task.tiled`."""
        self._test_data()
        own = self._own_test.get("nms") or _NMS
        settings = {"iou_threshold": own.get("iou_threshold", _NMS["iou_threshold"])}
        # The metric reads the annotation file. The masks of a large image would take too much memory.
        return tiled_config(self.cfg, "ssm_train.tasks.detection.TiledDetector", tiles, settings, annotated=False)

    @property
    def _own_test(self) -> dict[str, Any]:
        """How the model suppresses boxes at test time. Models of one stage and of two have that in two places."""
        own = self.trained_model.get("test_cfg") or {}
        return {"max_per_img": MASKS, **own.get("rcnn", own)}

    def prediction_writer(self, out: Path) -> CocoResultWriter:
        """Write objects in the form of COCO's results, see :meth:`.Task.prediction_writer`."""
        return CocoResultWriter(out)

    def resized(self, sample: BaseDataElement, before: Size, after: Size) -> BaseDataElement:
        """Boxes and masks for a picture of another size, see :meth:`.PipelineTask.resized`."""
        resized = sample.new()
        height, width = (new / old for new, old in zip(after, before, strict=True))
        for name in _OBJECTS:
            if "bboxes" in sample.get(name, ()):
                objects = sample.get(name).clone()
                objects.bboxes = objects.bboxes * objects.bboxes.new_tensor([width, height] * 2)
                masks = objects.pop("masks", None)
                if isinstance(masks, Tensor | np.ndarray) and len(masks):
                    pixels = torch.as_tensor(masks).to(torch.uint8)
                    objects.masks = F.interpolate(pixels[None], after, mode="nearest")[0].bool()
                resized.set_field(objects, name)
        return resized

    def drawable(self, sample: BaseDataElement) -> BaseDataElement:
        """Convert boxes and masks to pixels and plain arrays, because mmdet's visualizer draws nothing else."""
        drawn = sample.new()
        for name in _OBJECTS:
            if "bboxes" in sample.get(name, ()):  # images without annotations have empty ones
                objects = sample.get(name).clone()
                objects.bboxes = getattr(objects.bboxes, "tensor", objects.bboxes)
                masks = objects.get("masks")
                if isinstance(masks, list):
                    pixels = np.array([codec.decode(mask) for mask in objects.pop("masks")], dtype=bool)
                    objects.masks = torch.from_numpy(pixels.reshape(-1, *sample.ori_shape[:2]))
                elif masks is not None and not isinstance(masks, Tensor):
                    objects.masks = masks.to_ndarray()
                drawn.set_field(objects, name)
        return drawn
