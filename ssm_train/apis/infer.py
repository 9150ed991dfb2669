"""Trained models of all three tasks on images from files: predictions as plain data, and drawn."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, VISUALIZERS, DefaultScope
from mmengine.structures import BaseDataElement
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from ssm_core.errors import CheckpointError, ConfigError, DataError
from ssm_train.data.collate import collate_images
from ssm_train.data.guarded import check_whole
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.runtime.config_check import find_type
from ssm_train.runtime.runner import building_from_config, describe_model, fit_prefix

# What decoders raise over a file that is no image; mmcv asserts that an image was decoded.
_UNREADABLE = (OSError, ValueError, SyntaxError, AssertionError, cv2.error, Image.DecompressionBombError)
_TOP = 5  # classes that are told of a classified image
_MIN_DRAWN = 256  # pixels of the shorter side of a picture with text


class Predictor(ABC):
    """A trained model that takes image files.

    Args:
        cfg: the config that it was trained with.
        checkpoint: a file of tools/train.py or tools/convert_checkpoint.py.
        device: where to run it.

    Raises:
        CheckpointError: the file is missing, damaged or of another model.
        ConfigError: the config cannot be built.
    """

    collate = staticmethod(pseudo_collate)  # samples of one size or of many

    def __init__(self, cfg: Config, checkpoint: str | Path, device: torch.device | str):
        self.cfg = cfg
        self.scope = cfg.get("default_scope", "ssm_train")
        self.device = torch.device(device)
        with DefaultScope.overwrite_default_scope(self.scope), building_from_config():
            model = revert_sync_batchnorm(MODELS.build(cfg.model))
            meta = load_weights(model, cfg, checkpoint)
            self.classes, self.palette = self._names(meta.get("dataset_meta") or {})
            self.prepare = self._build_pipeline()
            self.visualizer = self._build_visualizer()
        self.model: nn.Module = model.to(self.device).eval()

    def __call__(self, path: Path, out: Path) -> dict[str, Any]:
        """Predict for one image and write pictures.

        Args:
            path: the image.
            out: what the pictures are called, without a suffix.

        Returns:
            The prediction as plain data.

        Raises:
            DataError: the image cannot be read.
        """
        try:
            check_whole(path)
            sample = self.prepare({"img_path": str(path), "img_id": 0})
        except _UNREADABLE as error:
            raise DataError(f"cannot read the image {path}: {' '.join(str(error).split())}") from error
        out.parent.mkdir(parents=True, exist_ok=True)
        with DefaultScope.overwrite_default_scope(self.scope), torch.inference_mode():
            prediction = self.model.test_step(self.collate([sample]))[0]
        return self.finish(path, prediction, out)

    @abstractmethod
    def finish(self, path: Path, prediction: Any, out: Path) -> dict[str, Any]:
        """Draw a prediction of the model and return it as plain data."""

    def _names(self, meta: dict) -> tuple[list[str] | None, list | None]:
        """Classes and palette: those the checkpoint was trained with, else those of the config's dataset."""
        dataset = dict(self.cfg.test_dataloader.dataset)
        kind = find_type(dataset["type"], self.scope, DATASETS)
        known = {**getattr(kind, "METAINFO", {}), **(dataset.get("metainfo") or {}), **meta}
        return known.get("classes"), known.get("palette")

    def _build_pipeline(self) -> Compose:
        """The test pipeline without the annotations."""
        steps = self.cfg.test_dataloader.dataset.pipeline
        return Compose([step for step in steps if not step["type"].split(".")[-1].startswith("LoadAnnotations")])

    def _build_visualizer(self) -> Any:
        settings = {**self.cfg.visualizer, "tensorboard": False, "wandb": False, "name": f"inference_{id(self)}"}
        visualizer = VISUALIZERS.build(settings)
        visualizer.dataset_meta = {"classes": self.classes, "palette": self.palette}
        return visualizer


class Classifier(Predictor):
    """Names the most likely classes and writes them over the image."""

    collate = staticmethod(collate_images)

    def _build_pipeline(self) -> Compose:
        transform = TRANSFORMS.build(self.cfg.test_dataloader.dataset.transform)
        mode = "L" if self.cfg.model.backbone.get("in_chans", 3) == 1 else "RGB"

        def prepare(results: dict) -> dict:
            with Image.open(results["img_path"]) as image:
                inputs = transform(image.convert(mode))
            return {"inputs": inputs, "data_samples": {"label": 0, "unreadable": ""}}

        return prepare

    def _build_visualizer(self) -> None:
        return None

    def finish(self, path: Path, prediction: dict, out: Path) -> dict[str, Any]:
        """Draw the first classes with their probabilities."""
        top = prediction["scores"].softmax(0).topk(min(_TOP, len(prediction["scores"])))
        names = [self.classes[i] if self.classes else str(i) for i in top.indices.tolist()]
        probabilities = top.values.tolist()
        with Image.open(path) as image:
            picture = write_classes(image.convert("RGB"), list(zip(names, probabilities, strict=True)))
        picture.save(out.with_name(f"{out.name}.png"))
        return {"classes": names, "scores": [round(score, 5) for score in probabilities]}


class Detector(Predictor):
    """Draws boxes and masks.

    Args:
        cfg: see :class:`Predictor`.
        checkpoint: see :class:`Predictor`.
        device: see :class:`Predictor`.
        min_score: what is less certain is left out.
    """

    def __init__(self, cfg: Config, checkpoint: str | Path, device: torch.device | str, min_score: float):
        super().__init__(cfg, checkpoint, device)
        self.min_score = min_score

    def finish(self, path: Path, prediction: BaseDataElement, out: Path) -> dict[str, Any]:
        """Draw the objects."""
        prediction = prediction.cpu()
        found = prediction.pred_instances
        found = found[found.scores >= self.min_score]
        prediction.pred_instances = found
        self.visualizer.add_datasample(
            out.name, read_rgb(path), prediction, draw_gt=False, out_file=str(out.with_name(f"{out.name}.png")),
            pred_score_thr=0.0,
        )  # fmt: skip
        names = [self.classes[i] if self.classes else str(i) for i in found.labels.tolist()]
        boxes = [[round(value, 2) for value in box] for box in found.bboxes.tolist()]
        scores = [round(score, 5) for score in found.scores.tolist()]
        objects = zip(names, scores, boxes, strict=True)
        return {"objects": [{"class": name, "score": score, "box": box} for name, score, box in objects]}


class Segmentor(Predictor):
    """Draws the class of every pixel, and writes the label map itself beside that."""

    def finish(self, path: Path, prediction: BaseDataElement, out: Path) -> dict[str, Any]:
        """Draw the label map."""
        labels = prediction.pred_sem_seg.data.squeeze(0).cpu().numpy()
        self.visualizer.add_datasample(
            out.name, read_rgb(path), prediction.cpu(), draw_gt=False, out_file=str(out.with_name(f"{out.name}.png"))
        )
        wide = labels.max(initial=0) > np.iinfo(np.uint8).max
        Image.fromarray(labels.astype(np.uint16 if wide else np.uint8)).save(out.with_name(f"{out.name}_labels.png"))
        numbers, counts = np.unique(labels, return_counts=True)
        names = [self.classes[i] if self.classes else str(i) for i in numbers.tolist()]
        shares = (counts / labels.size).round(5).tolist()
        return {"shares": dict(zip(names, shares, strict=True))}


def build_predictor(
    cfg: Config, checkpoint: str | Path, device: torch.device | str = "cpu", min_score: float = 0.3
) -> Predictor:
    """The predictor for a config's task, which is told by its scope: mmdet's, mmseg's or ours.

    Args:
        cfg: see :class:`Predictor`.
        checkpoint: see :class:`Predictor`.
        device: see :class:`Predictor`.
        min_score: for detectors, see :class:`Detector`.

    Raises:
        ConfigError: the config has no model and test set, or is of another scope.
    """
    if "model" not in cfg or not cfg.get("test_dataloader"):
        raise ConfigError("the config has no model or no test_dataloader, which tells how images are prepared")
    scope = cfg.get("default_scope", "ssm_train")
    if scope == "mmdet":
        return Detector(cfg, checkpoint, device, min_score)
    predictors = {"mmseg": Segmentor, "ssm_train": Classifier}
    if scope not in predictors:
        raise ConfigError(f"the config's default_scope is {scope!r}; there are ssm_train, mmdet and mmseg")
    return predictors[scope](cfg, checkpoint, device)


def load_weights(model: nn.Module, cfg: Config, file: str | Path) -> dict:
    """Load a checkpoint that has to fit exactly and return its ``meta``.

    Raises:
        CheckpointError: the file is missing, damaged or of another model.
    """
    content = ckpt.load(file)
    expected = model.state_dict()
    weights = content.get("state_dict", content.get("model", content))
    state = fit_prefix(ckpt.strip_prefix(weights), expected)
    names, words = ckpt.misfit(expected, state)
    if names:
        raise CheckpointError(
            f"{file} does not fit this config's {describe_model(cfg.model)}: {len(names)} tensors differ, the first: "
            f"{words}"
        )
    model.load_state_dict(state)
    return content.get("meta", {})


def write_classes(picture: Image.Image, likeliest: Sequence[tuple[str, float]], truth: str = "") -> Image.Image:
    """Enlarge a small picture and write classes with their probabilities into its corner.

    Args:
        picture: in mode RGB.
        likeliest: names and probabilities.
        truth: the label, for a first line; none if empty.
    """
    scale = max(_MIN_DRAWN / min(picture.size), 1)
    picture = picture.resize([round(side * scale) for side in picture.size])
    words = "\n".join([f"({truth})"] * bool(truth) + [f"{name} {score:.3f}" for name, score in likeliest])
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    draw.rectangle(draw.multiline_textbbox((4, 4), words, font), fill="black")
    draw.multiline_text((4, 4), words, "white", font)
    return picture


def read_rgb(path: Path) -> np.ndarray:  # [H, W, 3] uint8
    """The image as the pipelines of mmdet and mmseg read it, which heed its orientation."""
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(image[:, :, ::-1])


def find_images(place: Path, extensions: Sequence[str]) -> list[Path]:
    """The image at a place, or all images in and under a folder.

    Raises:
        DataError: there are none.
    """
    if place.is_file():
        return [place]
    found = sorted(p for p in place.rglob("*") if p.suffix.lower() in extensions) if place.is_dir() else []
    if not found:
        raise DataError(f"there is no image {place}, nor a folder of that name with images ({', '.join(extensions)})")
    return found
