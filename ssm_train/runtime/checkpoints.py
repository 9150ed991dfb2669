"""Checkpoint files of runs: reducing their content to plain data, writing them atomically and describing them.

:mod:`ssm_core.weights` reads them, and :mod:`.resuming` finds the one to go on from.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssm_core import weights
from ssm_core.errors import CheckpointError
from ssm_core.writing import WriteError
from ssm_train.runtime.files import write_atomically, write_text_atomically
from ssm_train.runtime.occupants import STATE

POINTER = "last_checkpoint"  # the file that names the checkpoint written last
_LONGEST_POINTER = 1 << 16  # characters
_LARGEST_COUNT = 1 << 62  # of epochs and iterations
# Values of a scalar that are saved. They fill every smoothing window. A whole history would grow with the run.
_HISTORY = 1000
# Pixels. A photo is scaled to the size that a file names, which must not decide how much memory that takes.
_LARGEST_SIDE = 4096


def _anything(value: Any) -> bool:
    return True


def _is_model(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    parts = (value.get("backbone", {}), value.get("module", {}), value.get("data_preprocessor") or {})
    if not all(isinstance(part, Mapping) for part in parts):
        return False
    size = parts[2].get("size") or (1,)
    size = size if isinstance(size, list | tuple) else (size,)
    return all(type(n) is int and 0 < n <= _LARGEST_SIDE for n in size)


def _is_dataset_meta(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    classes = value.get("classes") or ()
    return isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes)


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _is_transform(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    size, mean, std = value.get("size", 1), value.get("mean", ()), value.get("std", ())
    numbers = isinstance(mean, list | tuple) and isinstance(std, list | tuple) and len(mean) == len(std)
    if not numbers or not all(isinstance(n, int | float) and math.isfinite(n) for n in (*mean, *std)):
        return False
    return type(size) is int and 0 < size <= _LARGEST_SIDE


def _is_range(value: Any) -> bool:
    if value is None:
        return True
    numbers = isinstance(value, list | tuple) and all(isinstance(n, int | float) and math.isfinite(n) for n in value)
    return numbers and len(value) == 2 and value[0] < value[1]


# Checks of the entries of a checkpoint's meta that are read from it.
_META: dict[str, Callable[[Any], bool]] = {
    "model": _is_model,
    "dataset_meta": _is_dataset_meta,
    "test_transform": _is_transform,
    "value_range": _is_range,
    "run": _is_name,
}


def plain(value: Any) -> Any:
    """Convert a value to types that ``torch.load(weights_only=True)`` accepts, and leave out what has no such form.

    Returns:
        The converted value, or ``NotImplemented`` if the value itself has no such form.
    """
    if isinstance(value, Mapping):
        pairs = ((key, plain(item)) for key, item in value.items())
        return {key: item for key, item in pairs if item is not NotImplemented}
    if isinstance(value, list | tuple):
        items = [item for item in map(plain, value) if item is not NotImplemented]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if value is None or isinstance(value, bool | int | float | str | Tensor) else NotImplemented


def meta_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The ``meta`` in the content of a checkpoint file: what a run saves about itself beside the weights.

    Any program can have written the file. An entry of ours that has another type than ours is left out.

    Args:
        content: what :func:`ssm_core.weights.read_file` returned.
    """
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return {}
    return {key: value for key, value in meta.items() if _META.get(key, _anything)(value)}


def on_cpu(value: Any) -> Any:
    """Move every tensor in nested dicts, lists and tuples to the CPU. Those that are there already are shared."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(item) for item in value)
    return value


def detached(value: Any) -> Any:
    """Copy every tensor in nested dicts, lists and tuples to the CPU, without waiting for a device.

    A tensor of a GPU is copied into pinned memory behind what its stream has still to do. The copy is complete when the
    stream has come to this place.

    Args:
        value: the nested containers. Changing them or their tensors afterwards does not change the copy.
    """
    if isinstance(value, Tensor):
        value = value.detach()
        if value.device.type == "cpu":
            return value.clone()
        pinned = torch.empty_like(value, device="cpu", pin_memory=value.device.type == "cuda")
        return pinned.copy_(value, non_blocking=value.device.type == "cuda")
    if isinstance(value, Mapping):
        return {key: detached(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(detached(item) for item in value)
    return value


def schedules(schedulers: Mapping[str, Any] | Sequence[Any]) -> dict[str, list[dict]] | list[dict]:
    """The states of the parameter schedulers, by optimizer if there are several."""
    if isinstance(schedulers, Mapping):
        return {name: [scheduler.state_dict() for scheduler in part] for name, part in schedulers.items()}
    return [scheduler.state_dict() for scheduler in schedulers]


def pack_message_hub(state: dict) -> dict:
    """Convert the state of mmengine's message hub to plain data.

    The message hub holds the history of the scalars, the best score and the names of the kept files. Of their paths
    only the names are saved, because the folder may be moved or copied. The inverse is :func:`.resumed.message_hub`.
    """
    scalars = {}
    info = {
        key: os.path.basename(value) if isinstance(value, str) and is_path(key) else value
        for key, value in state["runtime_info"].items()
    }
    for key, history in state["log_scalars"].items():
        values, counts = history.data
        scalars[key] = (values[-_HISTORY:].tolist(), counts[-_HISTORY:].tolist())
    return {**plain({**state, "runtime_info": info, "log_scalars": {}}), "log_scalars": scalars}


def is_path(key: str) -> bool:
    """Whether an entry of the message hub is the path of a checkpoint of the run."""
    return key == "last_ckpt" or key.startswith("best_ckpt")


def point_to(path: str | Path) -> None:
    """Make a checkpoint the one that its folder's pointer names. The folder can be moved: only the name is written.

    A pointer that cannot be written is removed, so that it does not name an older checkpoint. So is a pipe in its
    place, which would be waited for.
    """
    pointer = Path(path).with_name(POINTER)
    if os.path.lexists(pointer) and not pointer.is_file() and not pointer.is_dir():
        with suppress(OSError):
            pointer.unlink()
    try:
        write_text_atomically(pointer, Path(path).name)
    except WriteError:
        with suppress(OSError):
            pointer.unlink(missing_ok=True)


def save(state: dict, path: str | Path) -> None:
    """Write a checkpoint atomically: a reader finds all of it or nothing.

    Raises:
        WriteError: it cannot be written.
    """
    write_atomically(path, lambda file: torch.save(state, file))


class Outline(NamedTuple):
    """What a state says about itself.

    Attributes:
        epoch: number of completed epochs.
        iteration: number of completed iterations.
        run: the run that saved it; None if it was saved before runs had names.
    """

    epoch: int
    iteration: int
    run: str | None


def outline(path: str | Path) -> Outline:
    """Read what a state of a run says about itself, without its tensors.

    Raises:
        CheckpointError: the file cannot be read or is no state of a run.
    """
    if not Path(path).is_file():  # opening a pipe would wait for ever
        raise CheckpointError(f"{path} is not a file")
    return outline_of(weights.read_file(path, tensors=False), path)


def outline_of(content: Any, path: str | Path) -> Outline:
    """What the content of a file says about the run that saved it.

    Args:
        content: what :func:`ssm_core.weights.read_file` returned.
        path: the file, for messages.

    Raises:
        CheckpointError: it is no state of a run.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise CheckpointError(f"{path} is not a state of a run")
    if "optimizer" not in content or "message_hub" not in content:
        raise CheckpointError(f"{path} has weights only and cannot be resumed: set load_from to start from it")
    meta = meta_of(content)
    counts = (meta.get("epoch"), meta.get("iter"))
    if not all(type(count) is int and 0 <= count < _LARGEST_COUNT for count in counts):
        raise CheckpointError(f"{path} cannot be resumed, its numbers of epochs and iterations are {counts}")
    return Outline(*counts, meta.get("run"))


def pointed(folder: str | Path) -> Path | None:
    """The checkpoint that was written last into a folder, whether it is whole or not; None if it is not known.

    Earlier releases wrote an absolute path. Only its name is used, because the folder may have been copied or moved.
    """
    if not (Path(folder) / POINTER).is_file():
        return None
    try:
        with open(Path(folder) / POINTER, encoding="utf-8") as file:
            name = os.path.basename(file.read(_LONGEST_POINTER).strip())
    except (OSError, ValueError):
        return None
    return Path(folder) / name if STATE.fullmatch(name) else None
