"""Converts checkpoints that the authors of a model family released. The converters of all families use this module."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssm_core.described import described_shapes
from ssm_core.errors import CheckpointError, listed
from ssm_core.weights import load_exactly


class ConversionError(CheckpointError):
    """A checkpoint cannot be converted. The message is one sentence that gives the reason."""


class Source(NamedTuple):
    """The place in a released file of a tensor that one of our models needs."""

    name: str
    part: int = 0  # index of the part, if the rows of the released tensor are split
    parts: int = 1  # number of equal parts


class Renamed(NamedTuple):
    """One tensor that was renamed: a line of the converter's report."""

    released: str
    rows: slice | None  # None for the whole tensor
    name: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        rows = "" if self.rows is None else f"[{self.rows.start}:{self.rows.stop}]"
        return f"{self.released}{rows} -> {self.name} {self.shape}"


class ReleasedFormat(NamedTuple):
    """How the authors of one family named their tensors."""

    title: str  # name of the family, for messages
    landmark: re.Pattern[str]  # matches the start of some name in every file of this family and in no other file
    source_of: Callable[[str], Source]  # maps our name of a tensor to its place in the released file
    arguments: Callable[[Mapping[str, Tensor]], dict[str, Any]]  # reads the constructor's arguments from a state dict

    def recognises(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Return whether the state dict is in this format."""
        return any(self.landmark.match(name) for name in state_dict)


class Renaming(NamedTuple):
    """A released state dict under our names, and a list of what could not be renamed."""

    tensors: dict[str, Tensor]
    lines: list[Renamed]
    missing: list[str]  # released names that our model needs and the file lacks
    left_over: list[str]  # released names that our model does not need
    misshapen: list[str]  # a description of every tensor whose shape does not fit


class Converted(NamedTuple):
    """A released state dict under our names. It was checked against the model that it belongs to."""

    state_dict: dict[str, Tensor]
    arguments: dict[str, Any]  # arguments of the model's constructor
    lines: list[Renamed]


def size_of(state_dict: Mapping[str, Tensor], name: str, axis: int) -> int:
    """Return the length of one axis of a tensor.

    Raises:
        ConversionError: the tensor is missing or has no such axis.
    """
    if name not in state_dict:
        raise ConversionError(f"cannot tell the architecture: {name} is missing")
    shape = tuple(state_dict[name].shape)
    if len(shape) <= axis:
        raise ConversionError(f"cannot tell the architecture: {name} has too few dimensions, its shape is {shape}")
    return shape[axis]


def count(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """Return how many items the names number from 0 after ``prefix``: the highest number plus one, or 0 without any."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return max((int(match[1]) + 1 for name in state_dict if (match := pattern.match(name))), default=0)


def replaced(name: str, table: Mapping[str, str]) -> str:
    """Replace a name by its entry in the table, or replace only the part before ``.weight``, ``.bias`` and the like.

    A name that the table does not know stays as it is.
    """
    stem, _, leaf = name.rpartition(".")
    return table.get(name) or (f"{table[stem]}.{leaf}" if stem in table else name)


def recognise(state_dict: Mapping[str, Tensor], formats: Iterable[ReleasedFormat]) -> ReleasedFormat:
    """Find the format of a released state dict.

    Raises:
        ConversionError: the names are in none of the formats, or they have a prefix before them.
    """
    formats = tuple(formats)
    for candidate in formats:
        if candidate.recognises(state_dict):
            return candidate
    for candidate in formats:
        for name in state_dict:
            if found := candidate.landmark.search(name):
                prefix = name[: found.start()]
                raise ConversionError(f"the {candidate.title} in this file is behind a prefix: give --prefix {prefix}")
    if any(name.startswith("stem.conv1.") for name in state_dict):
        raise ConversionError("this file is in our own format already: load it as it is")
    raise ConversionError(
        f"this is no released checkpoint of {' or '.join(f.title for f in formats)}: "
        f"its first names are {listed(list(state_dict), most=3)}"
    )


def _fits(shape: torch.Size, target: torch.Size) -> bool:
    """Return whether a reshape only merges or splits the leading dimension, such as the directions of a scan."""
    long, short = (shape, target) if len(shape) > len(target) else (target, shape)
    return len(long) == len(short) + 1 >= 2 and (long[0] * long[1], *long[2:]) == tuple(short)


def rename(
    state_dict: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], source_of: Callable[[str], Source]
) -> Renaming:
    """Give the tensors of a released state dict our names and shapes.

    This function does not fail. It lists in the result what does not fit.

    Args:
        state_dict: the released state dict.
        shapes: names and shapes of the model's own tensors.
        source_of: returns the place of each of these tensors in the released state dict.
    """
    tensors: dict[str, Tensor] = {}
    lines: list[Renamed] = []
    missing: dict[str, None] = {}  # an ordered set, because two of our tensors may come from the same released one
    misshapen: list[str] = []
    used: set[str] = set()
    for name, shape in shapes.items():
        released, part, parts = source_of(name)
        if released not in state_dict:
            missing[released] = None
            continue
        used.add(released)
        tensor, rows = state_dict[released], None
        if parts > 1 and tensor.dim():
            size = -(-tensor.shape[0] // parts)  # rounding up gives a misfit if the rows do not divide evenly
            rows = slice(part * size, (part + 1) * size)
            tensor = tensor[rows].clone()  # torch.save would write all parts with a view
        if _fits(tensor.shape, shape):
            tensor = tensor.reshape(shape)
        if tensor.shape != shape:
            misshapen.append(f"{released} is {tuple(state_dict[released].shape)}, {name} is {tuple(shape)}")
        tensors[name] = tensor
        lines.append(Renamed(released, rows, name, tuple(tensor.shape)))
    left_over = [name for name in state_dict if name not in used]
    return Renaming(tensors, lines, list(missing), left_over, misshapen)


def convert(
    state_dict: Mapping[str, Tensor],
    released: ReleasedFormat,
    build: Callable[..., nn.Module],
    **overrides: Any,
) -> Converted:
    """Convert a whole released state dict. As a proof, load the result into the model that the file describes.

    Args:
        state_dict: the released state dict.
        released: its format.
        build: the constructor of the family's model.
        overrides: arguments of the constructor that cannot be read from a file.

    Raises:
        ConversionError: a tensor is missing, is left over or has another shape; the message names these tensors.
        CheckpointError: the sizes are out of proportion to the tensors, or these are no finite floating-point numbers.
    """
    arguments = {**released.arguments(state_dict), **overrides}
    title = f"this {released.title}"
    # The file decides the sizes, so they are compared with its tensors before memory is taken for the model.
    expected = described_shapes(build, arguments, state_dict, title)
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    renaming = rename(state_dict, shapes, released.source_of)
    problems = [
        f"{what}: {listed(names)}"
        for what, names in (
            ("missing", renaming.missing),
            ("left over", renaming.left_over),
            ("of another shape", renaming.misshapen),
        )
        if names
    ]
    if problems:
        raise ConversionError(f"cannot convert this {released.title}; " + "; ".join(problems))
    load_exactly(build(**arguments), renaming.tensors, title, "its model")
    return Converted(renaming.tensors, arguments, renaming.lines)


def filter_released(
    state_dict: Mapping[str, Tensor], model: nn.Module, released: ReleasedFormat
) -> Mapping[str, Tensor]:
    """Give a released state dict the names of a model. Return any other state dict as it is.

    A tensor that the model does not need keeps its released name, so that a strict load reports it.

    Args:
        state_dict: the state dict that is going to be loaded.
        model: the model that will load it.
        released: the format to look for.
    """
    if not released.recognises(state_dict):
        return state_dict
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    renaming = rename(state_dict, shapes, released.source_of)
    return renaming.tensors | {name: state_dict[name] for name in renaming.left_over}
