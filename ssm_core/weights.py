"""Reading weights from files: safely, with prefixes, and with a report of what fits a model.

Every entrance goes through :func:`read_file`. Nothing in a file is executed, and every byte of a zip archive is
compared with its checksum, which torch does not do.
"""

import re
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core.errors import CheckpointError, nearest

# Where training scripts put the weights. The first entry that is there is taken, averaged weights last.
CONTAINERS = ("state_dict", "model", "module")
AVERAGED = ("model_ema", "state_dict_ema")

# The training scripts of both papers save their yacs config beside the weights. It is a dictionary and is read as one,
# so neither yacs nor trust in the file is needed.
AUTHORS_CONFIG = (OrderedDict, "yacs.config.CfgNode")

# What the unpickler raises over files that are damaged or something else.
_UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AssertionError, struct.error)


def damage(path: str | Path) -> str | None:
    """What is wrong with a checkpoint file, in words; None if it is whole and every byte agrees with its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except FileNotFoundError:
        return "there is no such file"
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return str(error) or type(error).__name__
    return f"the checksum of {bad} is wrong" if bad else None


def read_file(path: str | Path, device: torch.device | str = "cpu") -> Any:
    """Read a checkpoint file without executing anything in it.

    Args:
        path: the file.
        device: where its tensors go.

    Raises:
        CheckpointError: the file is missing or damaged, or holds objects other than tensors and plain data.
    """
    # Files from before torch 1.6 are no zip archives and have no checksums.
    problem = damage(path) if zipfile.is_zipfile(path) or not Path(path).is_file() else None
    if problem is not None:
        raise CheckpointError(f"cannot read the checkpoint {path}: {problem}")
    try:
        with torch.serialization.safe_globals([AUTHORS_CONFIG]):
            return torch.load(path, map_location=device, weights_only=True)
    except (UnpicklingError, *_UNREADABLE) as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise CheckpointError(f"{path} is damaged or not a PyTorch checkpoint") from error
        raise CheckpointError(
            f"{path} holds pickled Python objects ({found[1]}), which could run any code when loaded: if you trust it, "
            "load it where its authors' code is installed and save its state dict alone"
        ) from None


def state_dict_of(content: Any, path: str | Path, entry: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The weights in the content of a checkpoint file, without a data-parallel wrapper's ``module.``.

    Args:
        content: what :func:`read_file` returned.
        path: the file, for messages.
        entry: the entry of the dictionary that holds the weights. If left out, it is found by the usual names.

    Returns:
        The tensors, and the name of the entry they were in (empty for a bare state dict).

    Raises:
        CheckpointError: there are no weights, or no such entry.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    if entry is None:
        entry = next((key for key in CONTAINERS + AVERAGED if isinstance(content.get(key), Mapping)), "")
    elif not isinstance(content.get(entry), Mapping):
        raise CheckpointError(f"{path} has no state dict {entry!r}: its entries are {listed(list(map(str, content)))}")
    weights = content[entry] if entry else content
    other = [str(name) for name, value in weights.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if other or not weights:
        what = f"other things than named tensors: {listed(other)}" if other else "nothing"
        raise CheckpointError(f"{path} is not a state dict: {f'its entry {entry!r}' if entry else 'it'} holds {what}")
    return strip_prefix(weights), entry


def read_state_dict(path: str | Path, entry: str | None = None, prefix: str = "") -> tuple[dict[str, Tensor], str]:
    """Read the weights of a checkpoint file.

    Args:
        path: the file: a state dict, or a dictionary that holds one.
        entry: see :func:`state_dict_of`.
        prefix: take the tensors whose names begin with it, and remove it from their names.

    Returns:
        The tensors, and the name of the entry they were in (empty for a bare state dict).

    Raises:
        CheckpointError: the file cannot be read, holds no weights, or has no name with the prefix.
    """
    weights, entry = state_dict_of(read_file(path), path, entry)
    chosen = select_prefix(weights, prefix)
    if not chosen:
        raise CheckpointError(f"no name in {path} begins with {prefix!r}: the first is {next(iter(weights))}")
    return chosen, entry


def select_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def strip_prefix(state: Mapping[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    """The same tensors; where all names begin with the prefix, without it. By default a data-parallel wrapper's."""
    return select_prefix(state, prefix) if all(name.startswith(prefix) for name in state) else dict(state)


def add_backbone_prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name a bare backbone's tensors as a whole model names them, where only that makes them fit.

    Args:
        state: the tensors that were read.
        expected: the whole model's tensors.
    """
    prefixed = {f"backbone.{name}": tensor for name, tensor in state.items()}
    return prefixed if not state.keys() & expected.keys() and prefixed.keys() & expected.keys() else dict(state)


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


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], path: str | Path, title: str) -> None:
    """Load weights that have to fit a module exactly.

    Args:
        module: the network.
        state: the weights, named as the module names them.
        path: the file they are from, for the message.
        title: what the module is, for the message: ``"this config's model"``.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape.
    """
    names, words = misfit(module.state_dict(), state)
    if names:
        raise CheckpointError(f"{path} does not fit {title}: {len(names)} tensors differ, the first: {words}")
    module.load_state_dict(state)


def fitting(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint that a model has too, under the same name and in the same shape."""
    return {name: t for name, t in found.items() if name in expected and expected[name].shape == t.shape}


def report(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """What a model takes of a checkpoint and what not, in words; empty when the two agree."""
    taken = fitting(expected, found)
    afresh, unused = ([name for name in names if name not in taken] for names in (expected, found))
    if not afresh and not unused:
        return ""
    words = f"{len(taken)} tensors are taken; these start afresh: {_by_part(afresh)}"
    return f"{words}; these are not used: {_by_part(unused)}"


def first_non_finite(state: Mapping[str, Tensor]) -> str | None:
    """Name of the first floating-point tensor that has a NaN or an infinity, or None."""
    floating = {name: t for name, t in state.items() if t.is_floating_point() and t.numel()}
    if not floating:
        return None
    # One host synchronisation for all of them.
    finite = torch.stack([t.detach().isfinite().all() for t in floating.values()]).tolist()
    return None if all(finite) else list(floating)[finite.index(False)]


def listed(names: Sequence[str], most: int = 20) -> str:
    """The names with commas, the first ``most`` of them."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _by_part(names: Iterable[str]) -> str:
    """The parts of a model (and those of its backbone) that tensors are in, with their numbers."""
    parts: Counter[str] = Counter()
    for name in names:
        first, *rest = name.split(".")
        parts[f"{first}.{rest[0]}" if first == "backbone" and rest else first] += 1
    return ", ".join(f"{part} ({number})" for part, number in parts.items()) or "none"
