"""Checkpoint files of runs: reducing their content to plain data, writing them atomically and finding the newest.

:mod:`ssm_core.weights` reads them.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import MMLogger
from torch import Tensor

from ssm_core.weights import damage
from ssm_core.writing import WriteError
from ssm_train.runtime.files import write_atomically, write_text_atomically

POINTER = "last_checkpoint"  # the file that names the checkpoint written last
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


def _is_transform(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    size, mean, std = value.get("size", 1), value.get("mean", ()), value.get("std", ())
    numbers = isinstance(mean, list | tuple) and isinstance(std, list | tuple) and len(mean) == len(std)
    if not numbers or not all(isinstance(n, int | float) and math.isfinite(n) for n in (*mean, *std)):
        return False
    return type(size) is int and 0 < size <= _LARGEST_SIDE


# Checks of the entries of a checkpoint's meta that are read from it.
_META: dict[str, Callable[[Any], bool]] = {
    "model": _is_model,
    "dataset_meta": _is_dataset_meta,
    "test_transform": _is_transform,
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


def on_cpu(value: Any, copy: bool = False) -> Any:
    """Move every tensor in nested dicts, lists and tuples to the CPU.

    Args:
        value: the nested containers.
        copy: whether tensors that are on the CPU already are cloned.
    """
    if isinstance(value, Tensor):
        value = value.detach()
        return value.clone() if copy and value.device.type == "cpu" else value.cpu()
    if isinstance(value, Mapping):
        return {key: on_cpu(item, copy) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(item, copy) for item in value)
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


def pack_message_hub(state: dict) -> dict:
    """Convert the state of mmengine's message hub to plain data.

    The message hub holds the history of the scalars, the best score and the names of the kept files. The inverse is
    :func:`.resumed.message_hub`.
    """
    scalars = {}
    for key, history in state["log_scalars"].items():
        values, counts = history.data
        scalars[key] = (values[-_HISTORY:].tolist(), counts[-_HISTORY:].tolist())
    return {**plain({k: v for k, v in state.items() if k != "log_scalars"}), "log_scalars": scalars}


def point_to(path: str | Path) -> None:
    """Make a checkpoint the one that its folder's pointer names.

    A pointer that cannot be written is removed, so that it does not name an older checkpoint. The newest one is then
    found by its time.
    """
    pointer = Path(path).with_name(POINTER)
    try:
        write_text_atomically(pointer, str(path))
    except WriteError:
        with suppress(OSError):
            pointer.unlink(missing_ok=True)


def save(state: dict, path: str | Path) -> None:
    """Write a checkpoint atomically: a reader finds all of it or nothing.

    Raises:
        WriteError: it cannot be written.
    """
    write_atomically(path, lambda file: torch.save(state, file))


def _candidates(folder: Path) -> Iterator[Path]:
    """Checkpoints of a work folder: first the one written last, then all from the newest to the oldest."""
    pointer = folder / POINTER
    if pointer.exists():
        last = Path(pointer.read_text().strip())
        # The folder may have been moved or copied after the pointer was written.
        yield last if last.exists() else folder / last.name
    numbered = [
        (p.stat().st_mtime_ns, p) for p in folder.glob("*.pth") if re.fullmatch(r"(epoch|iter|state)_\d+", p.stem)
    ]
    yield from (path for _, path in sorted(numbered, reverse=True))


def newest_good(folder: str | Path, logger: MMLogger) -> Path | None:
    """The newest undamaged checkpoint of a work folder, or None if there is none.

    Args:
        folder: the work folder.
        logger: receives a warning for every damaged checkpoint, with the reason.
    """
    passed = set()
    for path in _candidates(Path(folder)):
        if path in passed:
            continue
        problem = damage(path)
        if problem is None:
            return path
        passed.add(path)
        logger.warning(f"{path} is damaged ({problem}): looking for the checkpoint before it")
    return None
