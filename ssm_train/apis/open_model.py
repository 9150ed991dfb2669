"""Opening a model by what a command line names: the backbone of a config, a checkpoint or timm, to look into it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from timm.data import resolve_model_data_config
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn

from quadtree_ssm import QuadMamba
from ssm_core import weights
from ssm_core.described import build_described, check_described
from ssm_core.errors import CheckpointError, ConfigError
from ssm_train.apis.shipped_weights import shipped_with
from ssm_train.data.normalization import Normalization, of_config, of_model, of_transform
from ssm_train.registry import SCOPE
from ssm_train.runtime.building import building_in_scope, scope_of
from ssm_train.runtime.checkpoints import meta_of
from ssm_train.runtime.config import load_config
from ssm_train.runtime.config_files import is_config
from ssm_train.tasks.classification.timm_model import timm_model
from tree_ssm import MambaTreeV

SEED = 0  # of random weights
# A checkpoint is data from anywhere: a type that it names is built only if it is one of these. It is not looked up in a
# registry, because that would import what the file names.
_TRANSFORM = "TestTransform"  # the transform of test images that a checkpoint may name
_FAMILIES = {"quadtree_ssm.QuadMamba": QuadMamba, "tree_ssm.MambaTreeV": MambaTreeV}


class OpenedModel(NamedTuple):
    """A backbone in evaluation mode.

    Attributes:
        network: takes images and returns logits or maps.
        normalization: how its images are scaled.
        classes: names of the classes that its logits stand for; None if they are not known.
        trained: whether its weights are those of a checkpoint or timm's, rather than random.
        title: its name and whose weights it has, in a few words.
    """

    network: nn.Module
    normalization: Normalization
    classes: Sequence[str] | None
    trained: bool
    title: str

    @property
    def has_head(self) -> bool:
        """Whether the network has a classifier that was trained."""
        return self.trained and getattr(self.network, "num_classes", 0) > 0


def open_model(source: str, pretrained: bool = False) -> OpenedModel:
    """Open what a command line names.

    Args:
        source: a checkpoint of tree-ssm train or tree-ssm convert (``.pth``), which says what model it is
            of; a config (``.py``), whose model gets the weights that come with the package for it, or else random
            ones; ``CONFIG=CHECKPOINT``; or timm's name of a model. timm knows the models of a family once the family's
            package is imported.
        pretrained: let timm fetch its weights for a name.

    Raises:
        CheckpointError: the file is missing, damaged or of another model, or does not say enough about its model.
        ConfigError: there is no such config or timm model, or it cannot be built.
    """
    config, _, checkpoint = source.partition("=")
    if is_config(config):
        return _of_config(load_config(config), checkpoint or None)
    if Path(source).suffix in weights.SUFFIXES or Path(source).exists():
        return _of_checkpoint(source)
    return _of_timm(source, pretrained)


def open_stand_in(name: str, like: Normalization | None = None) -> OpenedModel:
    """Open a model of timm with random weights, for the images of another model.

    Args:
        name: timm's name of the model.
        like: how the images of the other model are read and scaled; None for the images of timm's model.
    """
    if like is None:
        return _of_timm(name, pretrained=False)
    opened = _of_timm(name, pretrained=False, channels=like.channels)
    return opened._replace(normalization=like._replace(side=opened.normalization.side))


def _of_timm(name: str, pretrained: bool, channels: int | None = None) -> OpenedModel:
    torch.manual_seed(SEED)
    try:
        known = get_pretrained_cfg(name) or PretrainedCfg()  # the second for a name that timm does not know
        channels = known.input_size[0] if channels is None else channels
        model = timm_model(name, num_classes=known.num_classes, in_chans=channels, pretrained=pretrained)
    except (OSError, RuntimeError) as error:  # no network, no weights of that name
        reason = " ".join(str(error).split())
        raise ConfigError(f"timm's weights of {name} cannot be had: {reason}") from error
    data = resolve_model_data_config(model)
    normalization = Normalization(tuple(data["mean"]), tuple(data["std"]), data["input_size"][1])
    whose = "timm's weights" if pretrained else f"random weights, seed {SEED}"
    return OpenedModel(model.eval(), normalization, known.label_names, pretrained, f"{name}, {whose}")


def _of_config(cfg: Config, checkpoint: str | None) -> OpenedModel:
    if "backbone" not in cfg.get("model", {}):
        raise ConfigError("the config has no model with a backbone of images")
    torch.manual_seed(SEED)
    with building_in_scope(scope_of(cfg)):
        network = MODELS.build(cfg.model.backbone)
    normalization = of_config(cfg)
    if normalization is None:
        raise ConfigError(f"{cfg.filename} does not say how images are scaled: it has no test_dataloader of images")
    name = Path(cfg.filename).stem
    whose = Path(checkpoint or "").name
    if checkpoint is None and (row := shipped_with(cfg)) is not None:
        checkpoint = str(row.checked())
        whose = f"{row.path.name} of the package"
    if checkpoint is None:
        return OpenedModel(network.eval(), normalization, None, False, f"{name}, random weights, seed {SEED}")
    content = weights.read_file(checkpoint)
    state = _backbone_weights(content, checkpoint)
    weights.load_exactly(network, state, checkpoint, f"its {type(network).__name__}")
    return OpenedModel(network.eval(), normalization, _classes(content), True, f"{name}, {whose}")


class _Described(NamedTuple):
    """What a checkpoint says about its model.

    Attributes:
        model: the config of the whole model, which is that of the network for a converted file.
        kind: the type of the network, of :data:`_FAMILIES`.
        arguments: arguments of the network.
        transform: config of the transform of the test images; None if there is none.
        value_range: see :class:`.Normalization`.
    """

    model: Mapping[str, Any]
    kind: str
    arguments: dict[str, Any]
    transform: Mapping[str, Any] | None
    value_range: Sequence[float] | None


def _described_in(content: Any, file: str | Path) -> _Described:
    meta = meta_of(content) if isinstance(content, Mapping) else {}
    model = meta.get("model") or {}
    network = model.get("backbone") or model
    kind = network.get("type")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise CheckpointError(
            f"{file} does not say which QuadMamba or MambaTreeV it holds: give its config too, as CONFIG.py={file}"
        )
    # Converted files are of models that were trained as timm's are.
    transform = meta.get("test_transform", {} if network is model else None)
    arguments = {key: value for key, value in network.items() if key not in ("type", "init_cfg")}
    return _Described(model, kind, arguments, transform, meta.get("value_range"))


def _of_checkpoint(file: str) -> OpenedModel:
    content = weights.read_file(file)
    model, kind, arguments, transform, value_range = _described_in(content, file)
    state = _backbone_weights(content, file)
    network = build_described(_FAMILIES[kind], arguments, state, file)
    try:
        normalization = of_model(model, transform, value_range)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{file} says wrongly how its images were scaled: {error}") from error
    if normalization is None or len(normalization.mean) != arguments.get("in_chans", 3):
        raise CheckpointError(f"{file} does not say how its images were scaled: give its config, as CONFIG.py={file}")
    weights.load_exactly(network, state, file, f"its {type(network).__name__}")
    title = f"{kind.rpartition('.')[2]}, {Path(file).name}"
    return OpenedModel(network.eval(), normalization, _classes(content), True, title)


def classifier_config(file: str | Path) -> Config:
    """The config to predict with a classifier, from its checkpoint alone.

    Only what a checkpoint needs for this is taken from it, and nothing that it names is run.

    Args:
        file: a checkpoint of tree-ssm train or tree-ssm convert.

    Raises:
        CheckpointError: the file is missing or damaged, or is not of a classifier of one of the two families that says
            how its images are prepared.
    """
    content = weights.read_file(file)
    model, kind, arguments, transform, value_range = _described_in(content, file)
    ours = str(model.get("type")).removeprefix(f"{SCOPE}.") in ("ImageClassifier", kind)
    if not ours or transform is None or transform.get("type", _TRANSFORM) not in (_TRANSFORM, f"{SCOPE}.{_TRANSFORM}"):
        raise CheckpointError(f"{file} does not say how a classifier prepares its images: give its config, too")
    check_described(_FAMILIES[kind], arguments, _backbone_weights(content, file), file)
    scale = of_transform(transform, arguments.get("in_chans", 3))
    more = {key: transform[key] for key in ("crop_ratio", "interpolation") if key in transform}
    dataset = {
        "type": "ImageFolder",
        "transform": {"type": _TRANSFORM, "size": scale.side, "mean": scale.mean, "std": scale.std, **more},
        "value_range": value_range,
    }
    answers = {key: bool(model.get(key)) for key in ("multi_label", "binary")}
    return Config(
        {
            "default_scope": SCOPE,
            "model": {"type": "ImageClassifier", "backbone": {"type": kind, **arguments}, **answers},
            "test_dataloader": {"dataset": dataset},
        }
    )


def _classes(content: Mapping) -> Sequence[str] | None:
    return (meta_of(content).get("dataset_meta") or {}).get("classes")


def _backbone_weights(content: Mapping[str, Any], file: str) -> dict[str, Tensor]:
    """A whole model's or a backbone's weights, of which those of the backbone alone."""
    whole, _ = weights.state_dict_of(content, file)
    return weights.select_prefix(whole, "backbone.") or whole
