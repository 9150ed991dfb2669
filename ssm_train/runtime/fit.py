"""Checks that a checkpoint fits the model of a config."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import nn

from ssm_core import weights
from ssm_core.errors import CheckpointError
from ssm_train.runtime import pretrained
from ssm_train.runtime.building import describe_model

_FOREIGN = "; convert a file that the models' authors released with tree-ssm convert first"


def check_fit(model: nn.Module, cfg: Config, filename: str | Path, checkpoint: dict[str, Any]) -> None:
    """Check that all weights of a checkpoint fit a model.

    Args:
        model: the model.
        cfg: its config, for the message.
        filename: the file of the checkpoint, for the message.
        checkpoint: its content, with ``"state_dict"`` and ``"meta"``.

    Raises:
        CheckpointError: a tensor is missing, left over, or has another shape or kind.
    """
    names, words = weights.misfit(model.state_dict(), checkpoint["state_dict"])
    if not names:
        return
    meta = checkpoint["meta"]
    source, hint = "", _FOREIGN
    if "model" in meta:
        config = meta.get("config_file", meta.get("config"))
        source = f" holds {describe_model(meta['model'])}{f' (config {config})' if config else ''},"
        # The training may have had other values by --cfg-options than the file of the same name that the user gave.
        hint = (
            f"; the config that fits is the run's own, which the training wrote into its work folder"
            f"{f' as {config}' if config else ''}"
        )
    raise CheckpointError(
        f"{filename}{source or ' holds another model,'} and does not fit this config's "
        f"{describe_model(cfg.get('model', {}))}: {len(names)} tensors differ, the first: {words}"
        f"{hint}"
    )


def check_start(
    model: nn.Module, cfg: Config, filename: str | Path, checkpoint: dict[str, Any], logger: MMLogger
) -> None:
    """Check that a training can start from the weights of a checkpoint. What does not fit is a warning.

    If the images of the checkpoint had other channels than those of the model, the first convolution in
    ``checkpoint["state_dict"]`` is adapted, see :func:`.weights.adapt_channels`.

    Args:
        model: the model.
        cfg: its config.
        filename: the file of the checkpoint.
        checkpoint: its content, with ``"state_dict"`` and ``"meta"``.
        logger: gets the warnings.

    Raises:
        CheckpointError: less than half of the backbone fits.
    """
    expected = model.state_dict()
    found, adapted = weights.adapt_channels(expected, checkpoint["state_dict"])
    checkpoint["state_dict"] = found
    if adapted:
        logger.warning(f"{filename}: {adapted}")
    taken = weights.fitting(expected, found)
    backbone = [name for name in expected if name.startswith("backbone.")] or list(expected)
    if 2 * sum(name in taken for name in backbone) < len(backbone):
        check_fit(model, cfg, filename, checkpoint)
    if report := weights.report(expected, found):
        logger.warning(f"{filename}: {report}")
    network = getattr(model, "backbone", model)
    trained = checkpoint["meta"].get("model", {})
    if differences := pretrained.other_arguments(trained, cfg.get("model", {}), network):
        logger.warning(f"{filename} was trained with {', '.join(differences)}, unlike this config")
