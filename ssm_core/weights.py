"""Reads weights from files safely, handles prefixes of their names, and reports which weights fit a model.

All code of this project reads checkpoints through :func:`read_file`. It executes nothing in a file, and takes memory
and time in proportion to its size (:mod:`ssm_core.archives`). It also compares every byte of a zip archive with its
checksum, which torch does not do.
"""

import errno
import os
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core import addresses, archives
from ssm_core.errors import CheckpointError, listed, nearest
from ssm_core.pickles import ForeignObjectError, MalformedFileError
from ssm_core.safetensors_file import SUFFIX, is_safetensors, read_safetensors

# The entries in which training scripts store the weights. The first existing entry is used. Averaged weights come last.
CONTAINERS = ("state_dict", "model", "module")
AVERAGED = ("model_ema", "state_dict_ema")

# How the names of files with weights end.
SUFFIXES = (".pth", ".pt", ".ckpt", SUFFIX)

# The errors of reading damaged files and files that are not checkpoints.
_UNREADABLE = (
    UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError,
    AttributeError, AssertionError, ArithmeticError, MemoryError, struct.error,
)  # fmt: skip


def damage(path: str | Path) -> str | None:
    """Describe what is wrong with a checkpoint file. Return None if it is complete and all checksums are right."""
    try:
        _check_regular(path)
        with zipfile.ZipFile(path) as archive:
            archives.check_entries(archive, os.path.getsize(path))
            bad = archive.testzip()
    except FileNotFoundError:
        return "there is no such file"
    except (MalformedFileError, zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError) as error:
        return str(error) or type(error).__name__
    return f"the checksum of {bad} is wrong" if bad else None


def read_file(path: str | Path, device: torch.device | str = "cpu", tensors: bool = True) -> Any:
    """Read a checkpoint file without executing anything in it.

    Args:
        path: the file, of torch.save or safetensors, or an address that :func:`ssm_core.addresses.download` takes.
        device: the device for its tensors.
        tensors: whether to read its tensors. None stands for each of them otherwise, which takes little time even if
            the file is large. Their bytes are not verified then.

    Raises:
        CheckpointError: the file is missing or damaged, or holds objects other than tensors and plain data.
    """
    if addresses.is_address(path):
        return read_file(addresses.download(str(path)), device, tensors)
    try:
        _check_regular(path)
        if zipfile.is_zipfile(path):
            return archives.read_archive(path, device, tensors)
        if archives.is_legacy(path):
            return archives.read_legacy(path, device)
        if is_safetensors(path):
            return read_safetensors(path, device, tensors)
        reason = ""
    except torch.OutOfMemoryError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"cannot read the checkpoint {path}: there is no such file") from None
    except IsADirectoryError:
        raise CheckpointError(f"cannot read the checkpoint {path}: it is a directory") from None
    except ForeignObjectError as error:
        if str(error).startswith("torch._"):
            raise CheckpointError(
                f"{path} is not a state dict: it holds other things than named dense tensors ({error})"
            ) from None
        raise CheckpointError(
            f"{path} holds pickled Python objects ({error}), which could run any code when loaded: if you trust it, "
            "load it where its authors' code is installed and save its state dict alone"
        ) from None
    except MalformedFileError as error:
        reason = str(error)
    except zipfile.BadZipFile as error:
        reason = f"the checksum of one of its parts is wrong ({error})" if "CRC" in str(error) else str(error)
    except _UNREADABLE as error:
        raise CheckpointError(f"{path} is damaged or not a PyTorch checkpoint") from error
    raise CheckpointError(f"{path} is damaged or not a PyTorch checkpoint{f': {reason}' if reason else ''}")


def state_dict_of(content: Any, path: str | Path, entry: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Find the weights in the content of a checkpoint file. Remove the prefix ``module.`` of data-parallel wrappers.

    Args:
        content: the result of :func:`read_file`.
        path: the file, for messages.
        entry: the entry of the dictionary that holds the weights. If left out, the usual names are tried.

    Returns:
        The tensors, and the name of the entry that held them (empty for a bare state dict).

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
    other = [str(name) for name, value in weights.items() if not (isinstance(name, str) and _is_dense(value))]
    if other or not weights:
        what = f"other things than named dense tensors: {listed(other)}" if other else "nothing"
        raise CheckpointError(f"{path} is not a state dict: {f'its entry {entry!r}' if entry else 'it'} holds {what}")
    return strip_prefix(weights), entry


def read_state_dict(path: str | Path, entry: str | None = None, prefix: str = "") -> tuple[dict[str, Tensor], str]:
    """Read the weights of a checkpoint file.

    Args:
        path: a file that holds a state dict, or a dictionary with a state dict in it.
        entry: see :func:`state_dict_of`.
        prefix: only tensors whose names begin with this prefix are read. The prefix is removed from their names.

    Returns:
        The tensors, and the name of the entry that held them (empty for a bare state dict).

    Raises:
        CheckpointError: the file cannot be read, holds no weights, or has no name with the prefix.
    """
    weights, entry = state_dict_of(read_file(path), path, entry)
    chosen = select_prefix(weights, prefix)
    if not chosen:
        raise CheckpointError(f"no name in {path} begins with {prefix!r}: the first is {next(iter(weights))}")
    return chosen, entry


def select_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix. The prefix is removed from their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def strip_prefix(state: Mapping[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    """Remove a prefix from the names if all names begin with it. By default this is data-parallel's ``module.``."""
    return select_prefix(state, prefix) if all(name.startswith(prefix) for name in state) else dict(state)


def backbone_part(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the backbone's part of the weights of a whole classifier, detector or segmentor, and others unchanged."""
    return select_prefix(state, "backbone.") or state


def add_backbone_prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put ``backbone.`` before the names of a bare backbone, if they fit the whole model only with this prefix.

    Args:
        state: the tensors that were read.
        expected: the whole model's tensors.
    """
    prefixed = {f"backbone.{name}": tensor for name, tensor in state.items()}
    return prefixed if not state.keys() & expected.keys() and prefixed.keys() & expected.keys() else dict(state)


def misfit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> tuple[list[str], str]:
    """Compare a model's tensors with a checkpoint's.

    Returns:
        The names of all tensors that differ, and a description of the first difference. A tensor differs if only one
        side has it, if its shape differs, or if it has another kind of numbers, such as integers where the model has
        floating-point numbers. The result is ``([], "")`` if there is no difference.
    """
    missing = [name for name in expected if name not in found]
    other_shape = [name for name in expected if name in found and expected[name].shape != found[name].shape]
    other_kind = [
        name
        for name in expected
        if name in found and name not in other_shape and kind_of(expected[name]) != kind_of(found[name])
    ]
    unexpected = [name for name in found if name not in expected]
    if other_kind and not other_shape:
        name = other_kind[0]
        words = f"{name} has {kind_of(found[name])} in the file and {kind_of(expected[name])} in the model"
    elif other_shape:
        name = other_shape[0]
        words = f"{name} is {tuple(found[name].shape)} in the file and {tuple(expected[name].shape)} in the model"
    elif missing:
        words = f"{missing[0]} is not in the file{nearest(missing[0], unexpected)}"
    elif unexpected:
        words = f"{unexpected[0]} is not in the model{nearest(unexpected[0], expected)}"
    else:
        words = ""
    return missing + other_shape + other_kind + unexpected, words


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], path: str | Path, title: str) -> None:
    """Load weights that have to fit a module exactly.

    Args:
        module: the network.
        state: the weights, under the names that the module uses.
        path: the file of the weights, for the message.
        title: a name of the module for the message, such as ``"this config's model"``.

    Raises:
        CheckpointError: a tensor is missing, is left over, has another shape or another kind of numbers, or has a
            number that is NaN or infinite.
    """
    names, words = misfit(module.state_dict(), state)
    if names:
        raise CheckpointError(f"{path} does not fit {title}: {len(names)} tensors differ, the first: {words}")
    check_finite(state, path)
    module.load_state_dict(state)


def fitting(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint that have the name, the shape and the kind of one of the model's tensors."""
    return {
        name: t
        for name, t in found.items()
        if name in expected and expected[name].shape == t.shape and kind_of(expected[name]) == kind_of(t)
    }


def adapt_input(
    weight: Tensor,  # [D, C, kH, kW]
    channels: int,
) -> Tensor:  # [D, channels, kH, kW]
    """Adapt the first convolution of a network to images of another number of channels, as timm does.

    One channel gets the sum of all filters. More channels get the filters in turn, scaled so that the sum over equal
    channels stays.

    Args:
        weight: the filters.
        channels: the number of channels of the images.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    present = weight.shape[1]
    if channels == 1:
        return wide.sum(1, keepdim=True).to(weight.dtype)
    repeated = wide.repeat(1, -(-channels // present), 1, 1)[:, :channels]
    return (repeated * (present / channels)).to(weight.dtype)


def adapt_channels(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Adapt the first convolution of a checkpoint to a model for images of other channels, see :func:`adapt_input`.

    Args:
        expected: the model's tensors.
        found: the checkpoint's, under the model's names.

    Returns:
        The checkpoint's tensors, with the first convolution adapted if its channels alone differ; and what was done, in
        words, which are empty if nothing differs.
    """
    name = next((name for name, tensor in expected.items() if tensor.ndim == 4), None)
    if name is None or name not in found:
        return dict(found), ""
    here, there = expected[name].shape, found[name].shape
    same_otherwise = len(there) == len(here) and (here[0], *here[2:]) == (there[0], *there[2:])
    if here == there or not same_otherwise or not there[1] or not found[name].is_floating_point():
        return dict(found), ""
    words = f"{name} takes {there[1]} channels in the file and {here[1]} in the model: adapted as timm does"
    return {**found, name: adapt_input(found[name], here[1])}, words


def load_fitting(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> str:
    """Load those weights that fit a module, to start a training from. The first convolution is adapted.

    Args:
        module: the network.
        state: the weights, under the names that the module uses.
        path: the file of the weights, for messages.

    Returns:
        What was adapted, what starts afresh and what was not used, in words; empty if everything fits.

    Raises:
        CheckpointError: less than half of the tensors of the module are in the file, or one of them has a number that
            is NaN or infinite.
    """
    expected = module.state_dict()
    state, adapted = adapt_channels(expected, state)
    taken = fitting(expected, state)
    if 2 * len(taken) < len(expected):
        names, words = misfit(expected, state)
        raise CheckpointError(
            f"{path} does not fit {type(module).__name__}: {len(names)} tensors differ, the first: {words}"
        )
    check_finite(taken, path)
    module.load_state_dict(taken, strict=False)
    return "; ".join(words for words in (adapted, report(expected, state)) if words)


def report(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Describe which tensors of a checkpoint a model takes and which not.

    The text is empty if the model and the checkpoint have the same tensors.
    """
    taken = fitting(expected, found)
    afresh, unused = ([name for name in names if name not in taken] for names in (expected, found))
    if not afresh and not unused:
        return ""
    words = f"{len(taken)} tensors are taken; these start afresh: {_by_part(afresh)}"
    return f"{words}; these are not used: {_by_part(unused)}"


def first_non_finite(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first floating-point tensor that has a NaN or an infinity, or None."""
    floating = {name: t for name, t in state.items() if t.is_floating_point() and t.numel()}
    if not floating:
        return None
    # Stacking the results needs only one host synchronisation for all tensors.
    finite = torch.stack([t.detach().isfinite().all() for t in floating.values()]).tolist()
    return None if all(finite) else list(floating)[finite.index(False)]


def check_finite(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise a :class:`CheckpointError` if a tensor of a file has a number that is NaN or infinite."""
    if (bad := first_non_finite(state)) is not None:
        raise CheckpointError(f"{path} cannot be used: {bad} has numbers that are NaN or infinite")


def kind_of(tensor: Tensor) -> str:
    """The kind of the numbers in a tensor. A weight of one kind is not converted to another."""
    if tensor.dtype is torch.bool:
        return "truth values"
    if tensor.is_complex():
        return "complex numbers"
    return "floating-point numbers" if tensor.is_floating_point() else "integers"


def _check_regular(path: str | Path) -> None:
    """Raise unless a path is a file. A pipe or a device could be read without end."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise MalformedFileError("it is a pipe or a device and no file")


def _is_dense(value: Any) -> bool:
    """Whether a value is a tensor that can be copied into a parameter: dense, not quantised, and with its numbers."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized and not value.is_meta


def _by_part(names: Iterable[str]) -> str:
    """List the parts of a model that contain these tensors, with the number of tensors in each part.

    Parts of the backbone are listed one by one.
    """
    parts: Counter[str] = Counter()
    for name in names:
        first, *rest = name.split(".")
        parts[f"{first}.{rest[0]}" if first == "backbone" and rest else first] += 1
    return ", ".join(f"{part} ({number})" for part, number in parts.items()) or "none"
