"""Checkpoints for others: files with weights and meta alone, named by their contents, and folders for the Hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from torch import Tensor, nn

from ssm_core import addresses, weights
from ssm_core.errors import CheckpointError, ConfigError
from ssm_core.hub import save_hub_folder
from ssm_core.safetensors_file import SUFFIX, write_safetensors
from ssm_core.shipped import digits_of
from ssm_train.data.inside import check_name
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.runtime.config import load_config
from ssm_train.runtime.files import assembling, check_folder
from ssm_train.tasks import image_task_of

_PREDICTING = ("model", "dataset_meta", "test_transform", "value_range")


class Published(NamedTuple):
    """A published checkpoint.

    Attributes:
        path: the file.
        before: size in bytes of the checkpoint that it was made of.
        after: its own size in bytes.
        new: whether there was no such file before.
    """

    path: Path
    before: int
    after: int
    new: bool


def publish_checkpoint(
    source: str | Path, folder: Path | None = None, name: str | None = None, half: bool = False
) -> Published:
    """Write ``<name>-<first eight digits of its SHA-256>.pth`` with a checkpoint's weights and meta.

    The weights are those that were tested: if the training averaged its weights, they are the averaged ones.

    Args:
        source: a checkpoint, or its address.
        folder: where the file goes. If left out, it goes beside the source, or for an address into the current folder.
        name: the file's name before the digits; the source's if left out.
        half: write the weights in float16 to a file of safetensors, ``.safetensors``, with what is needed of the meta
            to predict. It takes half of the space.

    Raises:
        CheckpointError: the source is missing or damaged, it has no weights, or a weight is not finite, or too large
            for float16.
        ConfigError: the name leads to another folder.
        WriteError: the file cannot be written.
    """
    if name is not None:
        check_name(name, "--name", ConfigError)
    local = addresses.local_file(source)
    folder = folder or (Path() if addresses.is_address(source) else local.parent)
    check_folder(folder)
    content = weights.read_file(local)
    if not isinstance(content, Mapping) or "state_dict" not in content:
        raise CheckpointError(f"{source} has no state_dict: only checkpoints of these tools are published")
    state_dict, _ = weights.state_dict_of(content, source, "state_dict")
    if wrong := [name for name, value in state_dict.items() if value.is_complex()]:
        raise CheckpointError(f"{source} is not published: {wrong[0]} has complex numbers, which no model here has")
    if not any(value.is_floating_point() for value in state_dict.values()):
        raise CheckpointError(f"{source} is not published: none of its tensors has floating-point numbers")
    bad = weights.first_non_finite(state_dict)
    if bad is not None:
        raise CheckpointError(f"{source} is not published: {bad} has numbers that are NaN or infinite")
    name = name or Path(addresses.name_of(source)).stem
    suffix = SUFFIX if half else ".pth"
    with assembling(folder, folder / f"{name}{suffix}") as place:
        unnamed = place / f"unnamed{suffix}"
        if half:
            _write_half(unnamed, state_dict, content, source)
        else:
            ckpt.save({"meta": content.get("meta", {}), "state_dict": ckpt.on_cpu(state_dict)}, unnamed)
        digits = digits_of(unnamed)
        path = folder / unnamed.rename(place / f"{name}-{digits}{suffix}").name
        new = not path.exists()
    return Published(path, local.stat().st_size, path.stat().st_size, new)


def _write_half(path: Path, state: Mapping[str, Tensor], content: Mapping[str, Any], source: str | Path) -> None:
    """Write weights in float16, and what a prediction needs of the meta in the content of their checkpoint."""
    halved = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    if (large := weights.first_non_finite(halved)) is not None:
        raise CheckpointError(f"{source} is not published: {large} has numbers beyond 65504, the largest of float16")
    meta = {key: value for key, value in ckpt.meta_of(content).items() if key in _PREDICTING}
    try:
        write_safetensors(path, halved, meta)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} is not published: its meta has what JSON cannot hold: {error}") from error


def config_for_hub(folder: Path | None, config: str | None, options: list[str]) -> Config | None:
    """The config that a folder for the Hugging Face Hub is made with.

    Args:
        folder: the folder to write; None for none.
        config: the config file; None for none.
        options: ``KEY=VALUE`` for what is changed in the config.

    Returns:
        The config; None if no folder is asked for.

    Raises:
        ConfigError: one of the two is missing, or the config is wrong.
    """
    if config is None and options:
        raise ConfigError("--cfg-options changes the config of --hub: give --config, too")
    if (folder is None) != (config is None):
        raise ConfigError("--hub and --config go together: the folder says how to build the network")
    return None if config is None else load_config(config, options)


def publish_with_hub_folder(
    source: str | Path,
    cfg: Config,
    hub: Path,
    folder: Path | None = None,
    name: str | None = None,
    half: bool = False,
) -> Published:
    """Write the file of :func:`publish_checkpoint` and a folder in the Hugging Face Hub's layout, or none of the two.

    Args:
        source: a checkpoint, or its address.
        cfg: the config that the network was trained with.
        hub: the folder for the Hub.
        folder: where the file goes, see :func:`publish_checkpoint`.
        name: the file's name before the digits, and the title of the model card.
        half: see :func:`publish_checkpoint`. It changes nothing in the folder.

    Raises:
        ConfigError: the network is none of this project's, or the name leads to another folder.
        CheckpointError: the source is missing or damaged, does not fit the config, or has a weight that is not finite.
        WriteError: the file or the folder cannot be written.
    """
    model, _ = image_task_of(cfg).load(source)
    published = publish_checkpoint(source, folder, name, half)
    try:
        write_hub_folder(model, cfg, hub, name)
    except BaseException:
        if published.new:
            published.path.unlink()
        raise
    return published


def write_hub_folder(model: nn.Module, cfg: Config, folder: Path, name: str | None = None) -> None:
    """Write the network of a model in the Hugging Face Hub's layout.

    Args:
        model: the model with its weights; its ``backbone`` is written.
        cfg: the config of the model.
        folder: the folder to write.
        name: title of the model card; the config's name if left out.

    Raises:
        ConfigError: the network is none of this project's, or the name of a class is no text.
        WriteError: the folder cannot be written.
    """
    check_folder(folder)
    try:
        with assembling(folder) as place:
            save_hub_folder(model.backbone, place, name=name or Path(cfg.filename).stem)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
