"""Checkpoint files: written atomically, holding plain data only, verified before they are trusted."""

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from torch import Tensor

from ssm_core.errors import CheckpointError, nearest
from ssm_train.runtime.files import write_atomically

POINTER = "last_checkpoint"
# Enough for every smoothing window; a whole history would make the file grow with the length of the run.
_HISTORY = 1000


def plain(value: Any) -> Any:
    """``value`` in types that ``torch.load(weights_only=True)`` accepts; what has no such form is left out."""
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


def on_cpu(value: Any, copy: bool = False) -> Any:
    """Nested dicts, lists and tuples with every tensor on the CPU; ``copy`` also clones those that were there."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.clone() if copy and value.device.type == "cpu" else value.cpu()
    if isinstance(value, Mapping):
        return {key: on_cpu(item, copy) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(item, copy) for item in value)
    return value


def pack_message_hub(state: dict) -> dict:
    """mmengine's message hub (smoothed scalars, best score, names of kept files) as plain data."""
    scalars = {}
    for key, history in state["log_scalars"].items():
        values, counts = history.data
        scalars[key] = (values[-_HISTORY:].tolist(), counts[-_HISTORY:].tolist())
    return {**plain({k: v for k, v in state.items() if k != "log_scalars"}), "log_scalars": scalars}


def unpack_message_hub(state: dict) -> dict:
    """The inverse of :func:`pack_message_hub`."""
    scalars = {key: HistoryBuffer(*history) for key, history in state["log_scalars"].items()}
    return {**state, "log_scalars": scalars}


def save(state: dict, path: str | Path) -> None:
    """Write a checkpoint, all of it or nothing."""
    write_atomically(path, lambda file: torch.save(state, file))


def damage(path: str | Path) -> str | None:
    """What is wrong with a checkpoint file, or None: it is whole, and every byte agrees with its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except FileNotFoundError:
        return "there is no such file"
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return str(error) or type(error).__name__
    return f"the checksum of {bad} is wrong" if bad else None


def load(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Read a checkpoint without executing anything in it.

    Raises:
        CheckpointError: it is missing or damaged, or holds objects other than tensors and plain data.
    """
    # Files from before torch 1.6 are no zip archives and have no checksums.
    problem = damage(path) if zipfile.is_zipfile(path) or not Path(path).exists() else None
    if problem is not None:
        raise CheckpointError(f"cannot read the checkpoint {path}: {problem}")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (UnpicklingError, RuntimeError, OSError, EOFError) as error:
        if "Unsupported global" in str(error):
            raise CheckpointError(
                f"{path} holds pickled Python objects, which could run any code when loaded: if you trust it, load it "
                "yourself and save its state_dict alone"
            ) from None
        raise CheckpointError(f"{path} is damaged or not a PyTorch checkpoint") from error


def _candidates(folder: Path) -> Iterator[Path]:
    """Checkpoints of a work folder: the one last written, then the others from the newest to the oldest."""
    pointer = folder / POINTER
    if pointer.exists():
        last = Path(pointer.read_text().strip())
        # The folder may have been moved or copied since.
        yield last if last.exists() else folder / last.name
    numbered = [(p.stat().st_mtime_ns, p) for p in folder.glob("*.pth") if re.fullmatch(r"(epoch|iter)_\d+", p.stem)]
    yield from (path for _, path in sorted(numbered, reverse=True))


def newest_good(folder: str | Path, logger: MMLogger) -> Path | None:
    """The newest checkpoint of a work folder that is undamaged; says which ones it passes over and why."""
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


def first_non_finite(state: Mapping[str, Tensor]) -> str | None:
    """Name of the first floating-point tensor that has a NaN or an infinity, or None."""
    floating = {name: t for name, t in state.items() if t.is_floating_point() and t.numel()}
    if not floating:
        return None
    # One host synchronisation for all of them.
    finite = torch.stack([t.detach().isfinite().all() for t in floating.values()]).tolist()
    return None if all(finite) else list(floating)[finite.index(False)]


def strip_prefix(state: Mapping[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    """Names without the prefix that a data-parallel wrapper puts before them."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def misfit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> tuple[list[str], str]:
    """Compare a model's tensors with a checkpoint's.

    Returns:
        The names that are in one of them only or differ in shape, and the first such case in words; ``([], "")`` when
        the two agree.
    """
    missing = [name for name in expected if name not in found]
    other_shape = [name for name in expected if name in found and expected[name].shape != found[name].shape]
    unexpected = [name for name in found if name not in expected]
    if other_shape:
        name = other_shape[0]
        words = f"{name} is {tuple(found[name].shape)} in the file and {tuple(expected[name].shape)} in the model"
    elif missing:
        words = f"{missing[0]} is not in the file{nearest(missing[0], unexpected)}"
    elif unexpected:
        words = f"{unexpected[0]} is not in the model{nearest(unexpected[0], expected)}"
    else:
        words = ""
    return missing + other_shape + unexpected, words
