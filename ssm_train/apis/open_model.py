"""Models to look at: the backbone of a config, of a checkpoint or of timm, with what its images need."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_model_data_config
from torch import Tensor, nn

from ssm_core.backbone import MIN_SIDE
from ssm_core.errors import CheckpointError, ConfigError, DataError
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.runtime.config import load_config
from ssm_train.runtime.runner import building_from_config
from ssm_train.tasks.classification.timm_model import timm_model

SEED = 0  # of weights that nobody trained
# A checkpoint is data from anywhere: a type that it names is built only if it is one of these.
_FAMILIES = ("quadtree_ssm.QuadMamba", "tree_ssm.MambaTreeV")
_LONGEST = 8  # sides that the longer one of an image may have, of the square of the same area
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class Preparation(NamedTuple):
    """How a model's images are scaled.

    Attributes:
        mean: of every channel, of values between 0 and 1.
        std: of every channel.
        side: of the images that it is tested on.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int

    @property
    def grey(self) -> bool:
        """Whether the images have one channel."""
        return len(self.mean) == 1

    def inputs(
        self,
        image: np.ndarray,  # [H, W, 3] or [H, W], 0 … 1
    ) -> Tensor:  # [1, C, H, W]
        """The image as the model takes it."""
        pixels = torch.from_numpy(image).float().reshape(*image.shape[:2], -1).permute(2, 0, 1)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return ((pixels - mean) / std).unsqueeze(0)


class OpenedModel(NamedTuple):
    """A backbone in evaluation mode.

    Attributes:
        network: images to logits or to maps.
        preparation: what its images need.
        classes: what its logits stand for, where that is known.
        trained: whether its weights are of a checkpoint (or timm's).
        title: its name and whose weights these are, in a few words.
    """

    network: nn.Module
    preparation: Preparation
    classes: Sequence[str] | None
    trained: bool
    title: str

    @property
    def has_head(self) -> bool:
        """Whether the network gives logits that were trained."""
        return self.trained and getattr(self.network, "num_classes", 0) > 0


def open_model(source: str, pretrained: bool = False) -> OpenedModel:
    """Open what a command line names.

    Args:
        source: a checkpoint of tools/train.py or tools/convert_checkpoint.py (``.pth``), which says what model it is
            of; a config (``.py``), whose model gets random weights; ``CONFIG=CHECKPOINT``; or a name of timm's.
        pretrained: let timm fetch its weights for a name. Ours are among timm's once their package is imported.

    Raises:
        CheckpointError: the file is missing, damaged or of another model, or does not say enough about its model.
        ConfigError: there is no such config or timm model, or it cannot be built.
    """
    config, equals, checkpoint = source.partition("=")
    if not (equals and config.endswith(".py")):
        config, checkpoint = (source, "") if source.endswith(".py") else ("", source)
    if config:
        return _of_config(load_config(config), checkpoint or None)
    if Path(source).suffix in (".pth", ".pt", ".ckpt") or Path(source).exists():
        return _of_checkpoint(source)
    return _of_timm(source, pretrained)


def _of_timm(name: str, pretrained: bool) -> OpenedModel:
    torch.manual_seed(SEED)
    try:
        model = timm_model(name, pretrained=pretrained)
    except (OSError, RuntimeError) as error:  # no network, no weights of that name
        reason = " ".join(str(error).split())
        raise ConfigError(f"timm's weights of {name} cannot be had: {reason}") from error
    data = resolve_model_data_config(model)
    preparation = Preparation(tuple(data["mean"]), tuple(data["std"]), data["input_size"][1])
    weights = "timm's weights" if pretrained else f"random weights, seed {SEED}"
    return OpenedModel(model.eval(), preparation, None, pretrained, f"{name}, {weights}")


def _of_config(cfg: Config, checkpoint: str | None) -> OpenedModel:
    if "backbone" not in cfg.get("model", {}):
        raise ConfigError("the config has no model with a backbone of images")
    torch.manual_seed(SEED)
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "ssm_train")), building_from_config():
        network = MODELS.build(cfg.model.backbone)
    transform = (cfg.get("test_dataloader") or {}).get("dataset", {}).get("transform")
    preparation = _preparation(cfg.model, transform, cfg.model.backbone)
    if preparation is None:
        raise ConfigError(f"{cfg.filename} does not say how images are scaled: it has no test_dataloader of images")
    name = Path(cfg.filename).stem
    if checkpoint is None:
        return OpenedModel(network.eval(), preparation, None, False, f"{name}, random weights, seed {SEED}")
    content = ckpt.load(checkpoint)
    _load_backbone(network, content, checkpoint)
    return OpenedModel(network.eval(), preparation, _classes(content), True, f"{name}, {Path(checkpoint).name}")


def _of_checkpoint(file: str) -> OpenedModel:
    content = ckpt.load(file)
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    model = meta.get("model")
    described = model.get("backbone", model) if isinstance(model, Mapping) else None
    if not isinstance(described, Mapping) or described.get("type") not in _FAMILIES:
        raise CheckpointError(
            f"{file} does not say which QuadMamba or MambaTreeV it holds: give its config too, as CONFIG.py={file}"
        )
    # Converted files are of models that were trained as timm's are.
    transform = meta.get("test_transform", {} if described is model else None)
    preparation = _preparation(model, transform, described)
    if preparation is None:
        raise CheckpointError(f"{file} does not say how its images were scaled: give its config, as CONFIG.py={file}")
    arguments = {key: value for key, value in described.items() if key not in ("type", "init_cfg")}
    with DefaultScope.overwrite_default_scope("ssm_train"):
        try:
            network = MODELS.build({"type": described["type"], **arguments})
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{file} describes a model that cannot be built: {error}") from error
    _load_backbone(network, content, file)
    title = f"{described['type'].rpartition('.')[2]}, {Path(file).name}"
    return OpenedModel(network.eval(), preparation, _classes(content), True, title)


def _preparation(model: Mapping, transform: Mapping | None, backbone: Mapping) -> Preparation | None:
    """From what mmdet's and mmseg's models say of their inputs, or else from a classifier's test transform."""
    channels = backbone.get("in_chans", 3)
    inputs = model.get("data_preprocessor") or {}
    if "mean" in inputs and "std" in inputs:
        mean, std = (tuple(value / 255 for value in inputs[key]) for key in ("mean", "std"))
        return Preparation(mean, std, min(inputs.get("size") or (224,)))
    if transform is None:
        return None
    mean = tuple(transform.get("mean", IMAGENET_DEFAULT_MEAN[:channels]))
    std = tuple(transform.get("std", IMAGENET_DEFAULT_STD[:channels]))
    return Preparation(mean, std, transform.get("size", 224))


def _classes(content: Mapping) -> Sequence[str] | None:
    return (content.get("meta", {}).get("dataset_meta") or {}).get("classes")


def _load_backbone(network: nn.Module, content: Mapping[str, Any], file: str) -> None:
    """Load a whole model's or a backbone's weights, which have to fit the backbone exactly."""
    state = ckpt.strip_prefix(content.get("state_dict", content.get("model", content)))
    prefix = "backbone."
    if any(name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    names, words = ckpt.misfit(network.state_dict(), state)
    if names:
        raise CheckpointError(
            f"{file} does not fit its {type(network).__name__}: {len(names)} tensors differ, the first: {words}"
        )
    network.load_state_dict(state)


def upright(path: str | Path, grey: bool = False, max_megapixels: float | None = None) -> Image.Image:
    """Read an image, turned as its camera says, in one channel or in three.

    Args:
        path: the file.
        grey: one channel instead of three.
        max_megapixels: a larger image is refused before it is decoded.

    Raises:
        DataError: it cannot be read, or it is too large.
    """
    name = Path(path).name
    try:
        with Image.open(path) as image:
            if max_megapixels is not None and image.width * image.height > max_megapixels * 1e6:
                size = f"{image.width} × {image.height} pixels"
                raise DataError(f"the image {name} has {size}: at most {max_megapixels:g} megapixels are taken")
            return ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
    except _UNREADABLE as error:
        # Of an unknown format, Pillow says where the file lies.
        reason = "it is no image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise DataError(f"cannot read the image {name}: {reason}") from error


def to_area(
    image: Image.Image,
    side: int,
) -> np.ndarray:  # [H, W, 3], or [H, W] of a grey one; 0 … 1
    """The image scaled to the area of a square of this side, its proportions kept."""
    scale = side / (image.width * image.height) ** 0.5
    width, height = (min(max(round(n * scale), MIN_SIDE), _LONGEST * side) for n in image.size)
    return to_array(image.resize((width, height), Image.Resampling.BICUBIC))


def to_square(
    image: Image.Image,
    side: int,
) -> np.ndarray:  # [H, W, 3], or [H, W] of a grey one; 0 … 1
    """The image's centre square, scaled to this side."""
    return to_array(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))


def to_array(image: Image.Image) -> np.ndarray:
    """Values between 0 and 1."""
    return np.asarray(image, dtype=np.float32) / 255
