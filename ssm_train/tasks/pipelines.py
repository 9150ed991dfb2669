"""What detection and segmentation share: pipelines that prepare images, and visualizers."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from PIL import Image
from torch import Tensor, nn

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.images import UNREADABLE, reason
from ssm_train.data.loading import LoadImage
from ssm_train.data.pixels import LEVELS, ImageSource
from ssm_train.data.shown import stretched, to_picture
from ssm_train.data.wrapper import bare_datasets
from ssm_train.runtime.building import building_in_scope
from ssm_train.runtime.config import changed, with_test_augmentation
from ssm_train.runtime.files import assembling
from ssm_train.tasks.augmented import augmented_pipeline, flips_of, name_of, without_annotations
from ssm_train.tasks.base import ImageTask, Labels, Size

LARGEST_PICTURE = 2048  # longest side of a drawn prediction in pixels
# Pictures of smaller images are enlarged by a whole number until their shorter side has these pixels. Names that can be
# read would cover a smaller picture.
LEGIBLE = 512


class PipelineTask(ImageTask):
    """A task with pipelines and visualizers of the kind that mmdet and mmseg have."""

    drawing: ClassVar[dict[str, Any]] = {}  # arguments of the visualizer for predictions
    flips: ClassVar[tuple[str, ...]] = ("horizontal", "vertical")  # those that the task can flip back
    without_classes: ClassVar[tuple[str, ...]] = ("backbone",)  # parts of a model whose num_classes is not the data's

    @cached_property
    def pipeline(self) -> Compose:
        """The test pipeline of the config, without the steps that load annotations."""
        with building_in_scope(self.scope):
            return Compose(without_annotations(self._test_data().pipeline))

    def get_ready(self) -> None:
        """Build the pipeline, see :meth:`.ImageTask.get_ready`."""
        _ = self.pipeline

    @abstractmethod
    def merging(self) -> dict[str, Any]:
        """Config of the model that merges the predictions for several versions of an image."""

    def augmented(self) -> Config:
        """Copy the config, with its ``tta_model`` and ``tta_pipeline``, see :meth:`.Task.augmented`.

        Where it has none, the versions are of three sizes and flipped as in training, see :mod:`.augmented`.
        """
        values: dict[str, Any] = {}
        if "tta_model" not in self.cfg:
            values["tta_model"] = self.merging()
        if "tta_pipeline" not in self.cfg:
            steps = self._test_data().get("pipeline", ())
            values["tta_pipeline"] = augmented_pipeline(steps, flips_of(self.cfg, self.flips))
        return with_test_augmentation(changed(self.cfg, ConfigDict(values)))

    @cached_property
    def visualizer(self) -> Visualizer:
        """A visualizer as in the config that writes only to files."""
        settings = {**self.cfg.visualizer, "tensorboard": False, "wandb": False, "name": f"{self.scope}_{id(self)}"}
        with building_in_scope(self.scope):
            return VISUALIZERS.build(settings)

    def class_counts(self, model: nn.Module) -> dict[str, int]:
        """The numbers of classes that the heads are made for, see :meth:`.ImageTask.class_counts`."""
        return {
            f"model.{name}.num_classes": module.num_classes
            for name, module in model.named_modules()
            if isinstance(getattr(module, "num_classes", None), int)
            and name.split(".")[0] not in ("", *self.without_classes)
        }

    def prepare(self, source: ImageSource) -> dict[str, Any]:
        """Make a sample of an image, see :meth:`.ImageTask.prepare`."""
        if isinstance(source, str | Path):
            return self.pipeline({"img_path": str(source), "img_id": 0})
        loading, *others = self.pipeline.transforms
        if type(loading).__name__ == "LoadImageFromFile":  # mmcv's, which reads files alone
            loading = LoadImage(self.channels)
        if not isinstance(loading, LoadImage):
            raise ConfigError(
                f"the config reads images by {type(loading).__name__}, which takes files alone: use ssm_train.LoadImage"
            )
        loaded = loading({"img_path": source, "img_id": 0})
        return Compose(others)({**loaded, "img_path": ""})

    def picture_of(self, path: Path) -> Image.Image:
        """The picture of an image file, see :meth:`ImageTask.picture_of`.

        Where a step of somebody else's reads images, the picture is of what it has read.
        """
        if _reads_levels(self._test_data().pipeline):
            return super().picture_of(path)
        found: dict[str, Any] | None = {"img_path": str(path), "img_id": 0}
        try:
            for step in self.pipeline.transforms:
                found = step(found)
                if found is None or "img" in found:
                    break
            values = np.asarray((found or {})["img"])
        except (*UNREADABLE, KeyError) as error:
            raise DataError(f"cannot read the image {path}: {reason(error)}") from error
        return self._picture(values.reshape(*values.shape[:2], -1), levels=False).convert("RGB")

    def _picture(self, values: np.ndarray, levels: bool, red_first: bool = False) -> Image.Image:
        """The picture of an image of a pipeline.

        Args:
            values: the image, [H, W, C].
            levels: whether its values go from 0 to 255. If not, and they do not look like it, they are stretched.
            red_first: whether red is the first of three colours. Pipelines begin with blue unless a step turns them.
        """
        if values.shape[2] == 3 and not red_first:
            values = values[:, :, ::-1]
        levels = levels or (values.min(initial=0) >= 0 and 1 < values.max(initial=0) <= LEVELS)
        return to_picture(values if levels else stretched(values), self.bands)

    def draw(self, path: Path, prediction: BaseDataElement, labels: Labels, out: Path) -> None:
        """Draw a prediction over its image, see :meth:`.ImageTask.draw`."""
        self.visualizer.dataset_meta = labels._asdict()
        file = out.with_name(f"{out.name}.png")
        picture, prediction = self._at_legible_size(self.picture_of(path), prediction)
        with assembling(out.parent, file) as place:
            self.visualizer.add_datasample(
                out.name,
                np.asarray(picture),
                prediction.cpu(),
                draw_gt=False,
                out_file=str(place / file.name),
                **self.drawing,
            )

    def show(self, visualizer: Visualizer, name: str, inputs: Tensor, prediction: BaseDataElement, step: int) -> None:
        """Pass on the picture of a validation image, see :meth:`.ImageTask.show`. Only files have one."""
        path = Path(prediction.img_path)
        if path.is_file():
            picture, prediction = self._at_legible_size(self.picture_of(path), prediction)
            visualizer.add_datasample(name, np.asarray(picture), prediction.cpu(), draw_gt=True, show=False, step=step)

    def draw_sample(self, sample: dict, dataset: Any, settings: Config, place: Path) -> Path:
        """Draw a sample with its annotations, see :meth:`.Task.draw_sample`."""
        self.visualizer.dataset_meta = dataset.metainfo
        values = sample["inputs"].permute(1, 2, 0).numpy()
        steps = bare_datasets(settings)[0].get("pipeline") or ()
        scaling = next((step for step in steps if step.get("mean") and step.get("std")), None)  # mmcv's Normalize
        if scaling is not None:
            values = values * np.float32(scaling["std"]) + np.float32(scaling["mean"])
        red_first = scaling is not None and scaling.get("to_rgb", True)
        picture = self._picture(values, _reads_levels(steps), red_first).convert("RGB")
        path = place.with_name(f"{place.name}.png")
        picture, annotated = self._at_legible_size(picture, sample["data_samples"].cpu())
        with assembling(path.parent, path) as folder:
            self.visualizer.add_datasample(
                place.name, np.array(picture), annotated, draw_pred=False, out_file=str(folder / path.name)
            )
        return path

    def _at_legible_size(self, picture: Image.Image, sample: BaseDataElement) -> tuple[Image.Image, BaseDataElement]:
        """Resize a very large or a small picture, and convert what is drawn over it to what the visualizer draws."""
        size = (picture.height, picture.width)
        factor = min(-(-LEGIBLE // min(size)), LARGEST_PICTURE // max(size))
        if factor == 0:
            height, width = (max(side * LARGEST_PICTURE // max(size), 1) for side in size)
            picture = picture.resize((width, height), reducing_gap=2.0)
            return picture, self.drawable(self.resized(sample, size, (height, width)))
        sample = self.drawable(sample)
        if factor == 1:
            return picture, sample
        height, width = (side * factor for side in size)
        return picture.resize((width, height)), self.resized(sample, size, (height, width))

    @abstractmethod
    def resized(self, sample: BaseDataElement, before: Size, after: Size) -> BaseDataElement:
        """Predictions and annotations for a picture of another size than its image.

        Args:
            sample: what :meth:`drawable` returns, or what :meth:`predict` does if the picture is smaller. Masks that
                are still run lengths are then left out, because they would take long.
            before: height and width of the image.
            after: height and width of the picture.
        """

    def drawable(self, sample: BaseDataElement) -> BaseDataElement:
        """Convert predictions and annotations to the form that the visualizer draws."""
        return sample


def _reads_levels(pipeline: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a pipeline reads images by our step or mmcv's, whose values go from 0 to 255."""
    return bool(pipeline) and name_of(pipeline[0]) in ("LoadImage", "LoadImageFromFile")
