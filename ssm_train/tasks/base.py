"""The interface of a task: building a model, feeding it, reading its predictions, drawing them, and measuring it."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseTTAModel, revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS
from mmengine.visualization import Visualizer
from PIL import Image
from torch import Tensor, nn

from ssm_core import weights
from ssm_core.errors import ConfigError, DataError
from ssm_core.hub import HubModel
from ssm_core.image_data import ImageData
from ssm_core.layers import ScanMixer
from ssm_train.data.classes import renumber
from ssm_train.data.images import UNREADABLE, check_whole, read_image, reason
from ssm_train.data.normalization import of_config, test_data_of, value_range_of
from ssm_train.data.pixels import ImageSource, ValueRange
from ssm_train.data.shown import Bands, check_bands
from ssm_train.runtime.building import building_in_scope, scope_of, trained_part
from ssm_train.runtime.checkpoints import meta_of
from ssm_train.runtime.config_check import find_type
from ssm_train.runtime.fit import check_fit
from ssm_train.tasks.augmented import name_of
from ssm_train.tasks.predictions import PredictionWriter
from ssm_train.tasks.tiles import Tiles

# Height and width of an image in pixels, or the number of tokens of a row.
Size = tuple[int, ...]


class Labels(NamedTuple):
    """The classes that the outputs of a model stand for.

    Attributes:
        classes: names of the classes, or None if they are unknown.
        palette: a colour (red, green, blue) for each class, or None if there are none.
    """

    classes: Sequence[str] | None
    palette: Sequence | None

    def name(self, number: int) -> str:
        """The name of a class, or its number if the name is unknown."""
        return self.classes[number] if self.classes and 0 <= number < len(self.classes) else str(number)


class Task(ABC):
    """The task of one config.

    Args:
        cfg: the config.
    """

    unit: ClassVar[str]  # word for one input

    def __init__(self, cfg: Config):
        self.cfg = cfg
        self.scope = scope_of(cfg)

    def build(self) -> nn.Module:
        """Build the model of the config, in evaluation mode.

        Raises:
            ConfigError: the config has no model, or the model cannot be built.
            MissingPackageError: a package that the model needs is not installed.
        """
        if "model" not in self.cfg:
            raise ConfigError("the config has no model")
        with building_in_scope(self.scope):
            # A copy, because some of mmdet's models write into the config that they are built from.
            return revert_sync_batchnorm(MODELS.build(copy.deepcopy(self.cfg.model))).eval()

    def load(self, checkpoint: str | Path) -> tuple[nn.Module, dict[str, Any]]:
        """Build the model of the config and load a checkpoint into it.

        Returns:
            The model, and the ``meta`` of the checkpoint, which is empty if the file has none.

        Raises:
            CheckpointError: the file is missing, damaged or of another model.
            ConfigError: the model cannot be built.
        """
        model = self.build()
        content = weights.read_file(checkpoint)
        trained = model.module if isinstance(model, BaseTTAModel) else model
        state = weights.add_backbone_prefix(weights.state_dict_of(content, checkpoint)[0], trained.state_dict())
        meta = meta_of(content)
        check_fit(trained, self.cfg, checkpoint, {"state_dict": state, "meta": meta})
        weights.check_finite(state, checkpoint)
        trained.load_state_dict(state)
        return model, meta

    @property
    def trained_model(self) -> ConfigDict:
        """Config of the model that is trained, see :func:`.trained_part`."""
        return trained_part(self.cfg.model)

    def augmented(self) -> Config:
        """Copy the config, with test-time augmentation in the copy.

        Raises:
            ConfigError: the task or the config allows for none.
        """
        raise ConfigError("this config's task has no test-time augmentation: leave out --tta")

    def tiled(self, tiles: Tiles) -> Config:
        """Copy the config, with a model in the copy that sees tiles of an image and predicts for the whole.

        Args:
            tiles: how images are cut.

        Raises:
            ConfigError: the task or the config allows for none.
        """
        raise ConfigError("tiles are for detectors and segmentors: leave out --tile")

    @property
    def needs_values(self) -> bool:
        """Whether the model looks at the values of tensors. Tensors without values then cannot count its operations."""
        return self.trained_model.backbone.type == "timm"  # some of timm's models look at values while they are built

    def has_scans(self, model: nn.Module) -> bool:
        """Whether the model has scans. Their operations can be counted only with the compiled library."""
        return any(isinstance(module, ScanMixer) for module in model.modules())

    @property
    def comes_with_weights(self) -> bool:
        """Whether the config names pretrained weights. Its model can then be tested without a checkpoint."""
        return False

    @abstractmethod
    def default_size(self) -> Size:
        """The input size for which cost and speed are usually reported, or else the size of the config's data."""

    @abstractmethod
    def example_input(self, size: Size, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """Make a batch of random inputs.

        Args:
            size: size of an input.
            batch: number of inputs.
            device: where to make them.

        Raises:
            ConfigError: the size does not fit the task.
        """

    @abstractmethod
    def describe(self, size: Size) -> str:
        """Describe a size in words, for messages."""

    def measure(
        self,
        model: nn.Module,
        inputs: Tensor,  # [B, ...]
    ) -> None:
        """Run the part of a test that can be timed and counted: the network, without the choice of boxes and resizing.

        Args:
            model: a model of this config.
            inputs: inputs such as those of :meth:`example_input`.
        """
        model(inputs, mode="tensor")

    def prediction_writer(self, out: Path) -> PredictionWriter:
        """Make the metric that writes a test's predictions.

        Args:
            out: where they go. The task says which form it has.

        Raises:
            ConfigError: the task has no predictions to write, or ``out`` is not of its form.
        """
        raise ConfigError(f"a test of this config has no predictions to write to {out}: leave out --out")

    @abstractmethod
    def draw_sample(self, sample: dict, dataset: Any, settings: Config, place: Path) -> Path:
        """Draw a sample of a dataset as the pipeline makes it, with its annotations.

        Args:
            sample: the sample.
            dataset: the dataset that the sample is from.
            settings: config of the dataset.
            place: path of the picture without a suffix.

        Returns:
            Path of the file.
        """


class ImageTask(Task):
    """A task whose models take images."""

    unit = "image"
    labels_pixels: ClassVar[bool] = False  # whether every pixel has a prediction of its own

    def load(self, checkpoint: str | Path) -> tuple[nn.Module, dict[str, Any]]:
        """See :meth:`Task.load`. The network is told how its images are prepared, which its folders for the Hub say.

        Raises:
            ConfigError: the config prepares images in a way that does not fit the network.
        """
        model, meta = super().load(checkpoint)
        network = getattr(model, "backbone", None)
        data = self.image_data(network, meta) if isinstance(network, HubModel) else None
        if data is not None:
            try:
                network.describe_images(data)
            except ValueError as error:
                raise ConfigError(
                    f"the config prepares images in a way that does not fit its model: {error}"
                ) from error
        return model, meta

    def image_data(self, network: HubModel, meta: dict[str, Any]) -> ImageData | None:
        """How the config prepares test images, and the names of the classes of a network's logits.

        Args:
            network: the backbone of a model of this config.
            meta: see :meth:`labels`.

        Returns:
            The description; None if the config does not say it.
        """
        found = of_config(self.cfg)
        if found is None:
            return None
        height, width = self.default_size()
        return ImageData(found.mean, found.std, (height, width), 1.0, "bilinear", value_range=found.value_range)

    def default_size(self) -> Size:
        """Height and width of the preprocessor, or else those that the test pipeline resizes to."""
        size = (self.trained_model.get("data_preprocessor") or {}).get("size")
        if size is not None:
            return tuple(size)
        steps = test_data_of(self.cfg).get("pipeline", ())
        if fixed := next((step.size for step in steps if name_of(step) == "FixedSize"), None):
            return tuple(fixed)
        scale = next((step.scale for step in steps if "scale" in step), (224, 224))
        return tuple(reversed(scale))

    def example_input(self, size: Size, batch: int, device: torch.device | str = "cpu") -> Tensor:  # [B, C, H, W]
        """Make random images, with the number of channels that the model takes."""
        if len(size) != 2 or min(size) < 1:
            raise ConfigError(f"--size takes a height and a width for this model, got {' '.join(map(str, size))}")
        return torch.randn(batch, self.channels, *size, device=device)

    def describe(self, size: Size) -> str:
        """Describe a size as height × width."""
        return f"{size[0]} × {size[1]}"

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        backbone = self.trained_model.backbone
        return backbone.get("in_chans", backbone.get("in_channels", 3))  # mmdet and mmseg say in_channels

    @property
    def value_range(self) -> ValueRange | None:
        """The values of black and white in the test images, if the config gives them."""
        return value_range_of(test_data_of(self.cfg))

    @property
    def bands(self) -> Bands | None:
        """The channels that pictures show as red, green and blue, if the config chooses them.

        Raises:
            ConfigError: these are not three channels of the images.
        """
        chosen = (self.cfg.get("visualizer") or {}).get("bands")
        return None if chosen is None else check_bands(chosen, self.channels)

    def picture_of(self, path: Path) -> Image.Image:
        """The picture of an image file, over which predictions are drawn.

        Raises:
            DataError: the image cannot be read.
        """
        return read_image(path, value_range=self.value_range, bands=self.bands)

    @abstractmethod
    def class_counts(self, model: nn.Module) -> dict[str, int]:
        """The numbers of classes that the outputs of a model are made for, by their keys in the config.

        Args:
            model: a model of this config, without wrappers.
        """

    def renumber(self, dataset: Any, classes: Sequence[str]) -> None:
        """Number the classes of a dataset in another order.

        Args:
            dataset: the dataset, perhaps in wrappers.
            classes: its classes, in the order of their new numbers.

        Raises:
            ConfigError: the dataset is of a kind that has a fixed order.
        """
        renumber(dataset, classes, self.renumber_bare)

    def renumber_bare(self, dataset: Any, classes: Sequence[str]) -> None:
        """:meth:`renumber` for a dataset without wrappers."""
        if not hasattr(dataset, "renumber"):
            raise ConfigError(
                f"{type(dataset).__name__} has its classes in the order {', '.join(dataset.metainfo['classes'])} and "
                f"cannot number them in the order {', '.join(classes)}"
            )
        dataset.renumber(classes)

    def labels(self, meta: dict[str, Any]) -> Labels:
        """Classes and palette: those that a checkpoint was trained with, or else those of the config's test data.

        Args:
            meta: the ``meta`` of the checkpoint, see :meth:`load`.

        Raises:
            ConfigError: the config has no test data.
        """
        dataset = dict(self._test_data())
        kind = find_type(dataset["type"], self.scope, DATASETS)
        trained = meta.get("dataset_meta") or {}
        known = {**getattr(kind, "METAINFO", {}), **(dataset.get("metainfo") or {}), **trained}
        return Labels(known.get("classes"), known.get("palette"))

    def sample(self, source: ImageSource, name: str) -> dict[str, Any]:
        """Read an image, and prepare it as the config prepares its test data.

        Args:
            source: see :func:`.pixels.open_image`.
            name: what the image is called in an error.

        Raises:
            DataError: the image cannot be read.
            ConfigError: the config has no test data, or reads images in a way that takes files alone.
        """
        try:
            if isinstance(source, str | Path):
                check_whole(source)
            return self.prepare(source)
        except UNREADABLE as error:
            raise DataError(f"cannot read the image {name}: {reason(error)}") from error

    @abstractmethod
    def prepare(self, source: ImageSource) -> dict[str, Any]:
        """Make a sample of an image, without annotations.

        Raises:
            ConfigError: see :meth:`sample`.
            OSError: the image is unreadable; any other of :data:`~ssm_train.data.images.UNREADABLE` says the same.
        """

    def collate(self, samples: list[dict]) -> dict[str, Any]:
        """Make a batch of samples."""
        return pseudo_collate(samples)

    @abstractmethod
    def get_ready(self) -> None:
        """Build what :meth:`sample` needs, so that threads can share it.

        Raises:
            ConfigError: the config has no test data, or it cannot be built.
        """

    def predict(self, model: nn.Module, batch: dict[str, Any]) -> list[Any]:
        """The predictions of a model for a batch, one for each image."""
        with torch.inference_mode():
            return model.test_step(batch)

    def scores(self, prediction: Any) -> list[float] | None:
        """The scores of the objects of a prediction; None for tasks without separate objects.

        Args:
            prediction: one of :meth:`predict`.
        """
        return None

    def select(self, prediction: Any, min_score: float) -> Any:
        """Drop the objects of a prediction whose score is too low. Tasks without separate objects drop nothing.

        Args:
            prediction: one of :meth:`predict`.
            min_score: lowest score to keep, from 0 to 1.
        """
        return prediction

    @abstractmethod
    def as_arrays(self, prediction: Any, labels: Labels) -> dict[str, Any]:
        """Convert a prediction to arrays of NumPy, names and numbers; see :class:`~ssm_train.apis.predictor.Predictor`.

        Args:
            prediction: one of :meth:`predict`.
            labels: see :meth:`labels`.
        """

    def probabilities(self, prediction: Any) -> np.ndarray:  # [classes, H, W] float32
        """The probability of every class in every pixel, for tasks that label pixels.

        Args:
            prediction: one of :meth:`predict`.
        """
        raise NotImplementedError(f"{type(self).__name__} labels no pixels")

    @abstractmethod
    def as_data(self, prediction: Any, labels: Labels) -> dict[str, Any]:
        """Convert a prediction to plain data, which can be written as JSON."""

    @abstractmethod
    def draw(self, path: Path, prediction: Any, labels: Labels, out: Path) -> None:
        """Draw a prediction over its image.

        Args:
            path: the image file.
            prediction: one of :meth:`predict`.
            labels: see :meth:`labels`.
            out: path of the picture without a suffix.

        Raises:
            DataError: the image cannot be read.
            WriteError: a picture cannot be written.
        """

    @abstractmethod
    def show(self, visualizer: Visualizer, name: str, inputs: Tensor, prediction: Any, step: int) -> None:
        """Pass a picture of a validation image, with its prediction and its annotation, to the visualizer of a run.

        Args:
            visualizer: visualizer of the run.
            name: name of the picture.
            inputs: the image as the data loader gives it.
            prediction: output of the model for the image, with the annotation.
            step: number of completed iterations.
        """

    def _test_data(self) -> Config:
        if "model" not in self.cfg or not self.cfg.get("test_dataloader"):
            raise ConfigError("the config has no model or no test_dataloader, which says how images are prepared")
        return test_data_of(self.cfg)
