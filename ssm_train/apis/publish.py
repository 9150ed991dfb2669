"""Checkpoints as they are given away: weights and meta alone, named by their contents; folders for the Hub."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from ssm_core import weights
from ssm_core.errors import CheckpointError, ConfigError
from ssm_core.hub import save_hub_folder
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.tasks import image_task_of

_DIGITS = 8


class Published(NamedTuple):
    """A published checkpoint.

    Attributes:
        path: the file.
        before: bytes of the checkpoint that it was made of.
        after: its own bytes.
    """

    path: Path
    before: int
    after: int


def publish_checkpoint(source: Path, folder: Path, name: str) -> Published:
    """Write ``<name>-<first eight digits of its SHA-256>.pth`` with a checkpoint's weights and meta.

    Weights are those that were tested: the averaged ones where a training averaged them.

    Args:
        source: a checkpoint.
        folder: where the file goes.
        name: what it is called before the digits.

    Raises:
        CheckpointError: the source is missing or damaged, or has no weights or numbers that are not finite.
    """
    content = weights.read_file(source)
    if "state_dict" not in content:
        raise CheckpointError(f"{source} has no state_dict: only checkpoints of these tools are published")
    bad = weights.first_non_finite(content["state_dict"])
    if bad is not None:
        raise CheckpointError(f"{source} is not published: {bad} has numbers that are NaN or infinite")
    state = {"meta": content.get("meta", {}), "state_dict": ckpt.on_cpu(content["state_dict"])}
    unnamed = folder / f".{name}.pth"
    ckpt.save(state, unnamed)
    digits = hashlib.sha256(unnamed.read_bytes()).hexdigest()[:_DIGITS]
    path = unnamed.rename(folder / f"{name}-{digits}.pth")
    return Published(path, source.stat().st_size, path.stat().st_size)


def write_hub_folder(cfg: Config, checkpoint: Path, folder: Path) -> None:
    """Write a config's network with a checkpoint's weights in the Hugging Face Hub's layout.

    Raises:
        ConfigError: the network is none of ours.
        CheckpointError: the checkpoint does not fit.
    """
    model, _ = image_task_of(cfg).load(checkpoint)
    try:
        save_hub_folder(model.backbone, folder)
    except TypeError as error:
        raise ConfigError(str(error)) from error
