"""Opening a model by what a command line names: the backbone of a config, a checkpoint or timm, to look into it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from quadtree_ssm import QuadMamba
from ssm_core import weights
from ssm_core.described import build_described
from ssm_core.errors import CheckpointError, ConfigError
from ssm_train.data.normalization import Normalization, of_config, of_model
from ssm_train.runtime.building import building_in_scope, scope_of
from ssm_train.runtime.checkpoints import meta_of
from ssm_train.runtime.config import load_config
from ssm_train.runtime.config_files import is_config
from ssm_train.tasks.classification.timm_model import timm_model
from tree_ssm import MambaTreeV

SEED = 0  # of random weights
# A checkpoint is data from anywhere: a type that it names is built only if it is one of these. It is not looked up in a
# registry, because that would import what the file names.
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
            of; a config (``.py``), whose model gets random weights; ``CONFIG=CHECKPOINT``; or timm's name of a model.
            timm knows the models of a family once the family's package is imported.
        pretrained: let timm fetch its weights for a name.

    Raises:
        CheckpointError: the file is missing, damaged or of another model, or does not say enough about its model.
        ConfigError: there is no such config or timm model, or it cannot be built.
    """
    config, _, checkpoint = source.partition("=")
    if is_config(config):
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
    normalization = Normalization(tuple(data["mean"]), tuple(data["std"]), data["input_size"][1])
    whose = "timm's weights" if pretrained else f"random weights, seed {SEED}"
    return OpenedModel(model.eval(), normalization, None, pretrained, f"{name}, {whose}")


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
    if checkpoint is None:
        return OpenedModel(network.eval(), normalization, None, False, f"{name}, random weights, seed {SEED}")
    content = weights.read_file(checkpoint)
    state = _backbone_weights(content, checkpoint)
    weights.load_exactly(network, state, checkpoint, f"its {type(network).__name__}")
    return OpenedModel(network.eval(), normalization, _classes(content), True, f"{name}, {Path(checkpoint).name}")


def _of_checkpoint(file: str) -> OpenedModel:
    content = weights.read_file(file)
    meta = meta_of(content) if isinstance(content, Mapping) else {}
    model = meta.get("model") or {}
    described = model.get("backbone") or model
    kind = described.get("type")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise CheckpointError(
            f"{file} does not say which QuadMamba or MambaTreeV it holds: give its config too, as CONFIG.py={file}"
        )
    # Converted files are of models that were trained as timm's are.
    transform = meta.get("test_transform", {} if described is model else None)
    arguments = {key: value for key, value in described.items() if key not in ("type", "init_cfg")}
    state = _backbone_weights(content, file)
    network = build_described(_FAMILIES[kind], arguments, state, file)
    try:
        normalization = of_model(model, transform)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{file} says wrongly how its images were scaled: {error}") from error
    if normalization is None or len(normalization.mean) != described.get("in_chans", 3):
        raise CheckpointError(f"{file} does not say how its images were scaled: give its config, as CONFIG.py={file}")
    weights.load_exactly(network, state, file, f"its {type(network).__name__}")
    title = f"{kind.rpartition('.')[2]}, {Path(file).name}"
    return OpenedModel(network.eval(), normalization, _classes(content), True, title)


def _classes(content: Mapping) -> Sequence[str] | None:
    return (meta_of(content).get("dataset_meta") or {}).get("classes")


def _backbone_weights(content: Mapping[str, Any], file: str) -> dict[str, Tensor]:
    """A whole model's or a backbone's weights, of which those of the backbone alone."""
    whole, _ = weights.state_dict_of(content, file)
    return weights.select_prefix(whole, "backbone.") or whole
