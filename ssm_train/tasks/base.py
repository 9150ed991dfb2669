"""What a task is: how its model is built, fed, asked, drawn and measured."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, DefaultScope
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import Tensor, nn

from ssm_core import weights
from ssm_core.errors import ConfigError, DataError
from ssm_core.layers import ScanMixer
from ssm_train.data.images import UNREADABLE, check_whole, read_rgb, reason
from ssm_train.runtime.building import building_in_scope, describe_model, scope_of
from ssm_train.runtime.config_check import find_type

# Height and width of an image, or the number of tokens of a row.
Size = tuple[int, ...]


class Labels(NamedTuple):
    """What a model's outputs stand for.

    Attributes:
        classes: their names, where they are known.
        palette: a colour for each, where they have any.
    """

    classes: Sequence[str] | None
    palette: Sequence | None

    def name(self, number: int) -> str:
        """The name of a class, or its number where names are not known."""
        return self.classes[number] if self.classes else str(number)


class Task(ABC):
    """The task of one config.

    Args:
        cfg: the config.
    """

    unit: ClassVar[str]  # what one input is called

    def __init__(self, cfg: Config):
        self.cfg = cfg
        self.scope = scope_of(cfg)

    def build(self) -> nn.Module:
        """The config's model in evaluation mode.

        Raises:
            ConfigError: the config has no model, or it cannot be built.
        """
        if "model" not in self.cfg:
            raise ConfigError("the config has no model")
        with building_in_scope(self.scope):
            return revert_sync_batchnorm(MODELS.build(self.cfg.model)).eval()

    def load(self, checkpoint: str | Path) -> tuple[nn.Module, dict[str, Any]]:
        """The model with a checkpoint's weights, and what the checkpoint says about itself (``meta``).

        Raises:
            CheckpointError: the file is missing, damaged or of another model.
            ConfigError: the model cannot be built.
        """
        model = self.build()
        content = weights.read_file(checkpoint)
        state = weights.add_backbone_prefix(weights.state_dict_of(content, checkpoint)[0], model.state_dict())
        weights.load_exactly(model, state, checkpoint, f"this config's {describe_model(self.cfg.model)}")
        meta = content.get("meta")
        return model, meta if isinstance(meta, dict) else {}

    @property
    def needs_values(self) -> bool:
        """Whether the model looks at values, so that tensors without contents cannot count what it costs."""
        return self.cfg.model.backbone.type == "timm"  # some of timm's models do while they are built

    def has_scans(self, model: nn.Module) -> bool:
        """Whether the compiled library's operators are in the model, without which its scans cannot be counted."""
        return any(isinstance(module, ScanMixer) for module in model.modules())

    @property
    def comes_with_weights(self) -> bool:
        """Whether the config names pretrained weights, so that it can be tested without a checkpoint."""
        return False

    @abstractmethod
    def default_size(self) -> Size:
        """The size that figures are usually given for, or that the config's data has."""

    @abstractmethod
    def example_input(self, size: Size, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """A batch of random inputs.

        Raises:
            ConfigError: the size does not fit the task.
        """

    @abstractmethod
    def describe(self, size: Size) -> str:
        """The size in words."""

    def measure(
        self,
        model: nn.Module,
        inputs: Tensor,  # [B, ...]
    ) -> None:
        """Run what runs at test time on inputs alone, without choosing boxes or resizing, to time or count it."""
        model(inputs, mode="tensor")

    @abstractmethod
    def draw_sample(self, sample: dict, dataset: Any, settings: Config, place: Path) -> Path:
        """Draw a sample of a dataset after its pipeline, with its annotations.

        Args:
            sample: what the dataset gives.
            dataset: the dataset.
            settings: its config.
            place: the picture's path without a suffix.

        Returns:
            The file.
        """


class ImageTask(Task):
    """A task whose models take images."""

    unit = "image"

    def default_size(self) -> Size:
        """Height and width: those of the preprocessor, or else those that the test pipeline resizes to."""
        size = (self.cfg.model.get("data_preprocessor") or {}).get("size")
        if size is not None:
            return tuple(size)
        dataset = (self.cfg.get("test_dataloader") or {}).get("dataset", {})
        scale = next((step.scale for step in dataset.get("pipeline", ()) if "scale" in step), (224, 224))
        return tuple(reversed(scale))

    def example_input(self, size: Size, batch: int, device: torch.device | str = "cpu") -> Tensor:  # [B, C, H, W]
        """Random images of the channels that the model takes."""
        if len(size) != 2 or min(size) < 1:
            raise ConfigError(f"--size takes a height and a width for this model, got {' '.join(map(str, size))}")
        return torch.randn(batch, self.channels, *size, device=device)

    def describe(self, size: Size) -> str:
        """Height × width."""
        return f"{size[0]} × {size[1]}"

    @property
    def channels(self) -> int:
        """Channels of the model's images."""
        return self.cfg.model.backbone.get("in_chans", 3)

    @abstractmethod
    def class_counts(self, model: nn.Module) -> dict[str, int]:
        """The numbers of classes that the outputs of a model are made for, by their keys in the config.

        Args:
            model: a model of this config, without wrappers.
        """

    def labels(self, meta: dict[str, Any]) -> Labels:
        """Classes and palette: those that a checkpoint was trained with, else those of the config's test data.

        Args:
            meta: what the checkpoint says about itself.
        """
        dataset = dict(self._test_data())
        kind = find_type(dataset["type"], self.scope, DATASETS)
        trained = meta.get("dataset_meta") or {}
        known = {**getattr(kind, "METAINFO", {}), **(dataset.get("metainfo") or {}), **trained}
        return Labels(known.get("classes"), known.get("palette"))

    def batch(self, path: Path) -> dict[str, Any]:
        """An image file as a batch of one, prepared as the config's test data are.

        Raises:
            DataError: the image cannot be read.
            ConfigError: the config has no test data.
        """
        try:
            check_whole(path)
            return self.collate([self.prepare(path)])
        except UNREADABLE as error:
            raise DataError(f"cannot read the image {path}: {reason(error)}") from error

    @abstractmethod
    def prepare(self, path: Path) -> dict[str, Any]:
        """A sample of an image file, without annotations."""

    def collate(self, samples: list[dict]) -> dict[str, Any]:
        """A batch of samples."""
        return pseudo_collate(samples)

    def predict(self, model: nn.Module, batch: dict[str, Any]) -> list[Any]:
        """The model's predictions for a batch, one for each image."""
        with DefaultScope.overwrite_default_scope(self.scope), torch.inference_mode():
            return model.test_step(batch)

    def select(self, prediction: Any, min_score: float) -> Any:
        """A prediction without what is less certain than a score; unchanged where a task has no separate objects."""
        return prediction

    @abstractmethod
    def as_data(self, prediction: Any, labels: Labels) -> dict[str, Any]:
        """A prediction as plain data."""

    @abstractmethod
    def draw(self, path: Path, prediction: Any, labels: Labels, out: Path) -> None:
        """Draw a prediction over its image.

        Args:
            path: the image.
            prediction: see :meth:`predict`.
            labels: see :meth:`labels`.
            out: the picture's path without a suffix.
        """

    @abstractmethod
    def show(self, visualizer: Visualizer, name: str, inputs: Tensor, prediction: Any, step: int) -> None:
        """Hand the picture of a validation image with its prediction and its annotation to a run's visualizer.

        Args:
            visualizer: of the run.
            name: of the picture.
            inputs: the image as the data loader gives it.
            prediction: the model's output for it, with the annotation.
            step: iterations so far.
        """

    def _test_data(self) -> Config:
        if "model" not in self.cfg or not self.cfg.get("test_dataloader"):
            raise ConfigError("the config has no model or no test_dataloader, which tells how images are prepared")
        return self.cfg.test_dataloader.dataset


class PipelineTask(ImageTask):
    """A task with mmdet's or mmseg's pipelines and visualizers."""

    drawing: ClassVar[dict[str, Any]] = {}  # arguments of the visualizer for predictions that were selected
    without_classes: ClassVar[tuple[str, ...]] = ("backbone",)  # parts of a model whose num_classes is not the data's

    @cached_property
    def pipeline(self) -> Compose:
        """The config's test pipeline without the annotations."""
        steps = [s for s in self._test_data().pipeline if not s["type"].split(".")[-1].startswith("LoadAnnotations")]
        with building_in_scope(self.scope):
            return Compose(steps)

    @cached_property
    def visualizer(self) -> Visualizer:
        """A visualizer of the config's kind that writes to files only."""
        settings = {**self.cfg.visualizer, "tensorboard": False, "wandb": False, "name": f"{self.scope}_{id(self)}"}
        with building_in_scope(self.scope):
            return VISUALIZERS.build(settings)

    def class_counts(self, model: nn.Module) -> dict[str, int]:
        """The numbers of classes that the heads are made for, see :meth:`ImageTask.class_counts`."""
        return {
            f"model.{name}.num_classes": module.num_classes
            for name, module in model.named_modules()
            if isinstance(getattr(module, "num_classes", None), int)
            and name.split(".")[0] not in ("", *self.without_classes)
        }

    def prepare(self, path: Path) -> dict[str, Any]:
        """A sample of an image file, without annotations."""
        return self.pipeline({"img_path": str(path), "img_id": 0})

    def draw(self, path: Path, prediction: BaseDataElement, labels: Labels, out: Path) -> None:
        """Draw a prediction over its image, see :meth:`ImageTask.draw`."""
        self.visualizer.dataset_meta = labels._asdict()
        self.visualizer.add_datasample(
            out.name,
            read_rgb(path),
            prediction.cpu(),
            draw_gt=False,
            out_file=str(out.with_name(f"{out.name}.png")),
            **self.drawing,
        )

    def show(self, visualizer: Visualizer, name: str, inputs: Tensor, prediction: BaseDataElement, step: int) -> None:
        """Hand over the picture of a validation image, see :meth:`ImageTask.show`; only images in files have one."""
        path = Path(prediction.img_path)
        if path.is_file():
            visualizer.add_datasample(name, read_rgb(path), prediction.cpu(), draw_gt=True, show=False, step=step)

    def draw_sample(self, sample: dict, dataset: Any, settings: Config, place: Path) -> Path:
        """Draw a sample with its annotations, see :meth:`Task.draw_sample`."""
        self.visualizer.dataset_meta = dataset.metainfo
        rgb = np.ascontiguousarray(sample["inputs"].permute(1, 2, 0).numpy()[:, :, ::-1])
        path = place.with_name(f"{place.name}.png")
        annotated = self.drawable(sample["data_samples"].cpu())
        self.visualizer.add_datasample(place.name, rgb, annotated, draw_pred=False, out_file=str(path))
        return path

    def drawable(self, annotated: BaseDataElement) -> BaseDataElement:
        """A data sample as the visualizer draws it."""
        return annotated
