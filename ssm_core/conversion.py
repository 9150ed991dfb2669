"""Converting the checkpoints that the authors of a family released: what the converters of all families share."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssm_core.errors import CheckpointError
from ssm_core.weights import listed


class ConversionError(CheckpointError):
    """A checkpoint cannot be converted; the message is one sentence that says why."""


class Source(NamedTuple):
    """Where a tensor of a model of ours is found in a released file."""

    name: str
    part: int = 0  # of `parts` equal parts of the rows
    parts: int = 1


class Renamed(NamedTuple):
    """One line of the list of what became of what."""

    released: str
    rows: slice | None  # None for the whole tensor
    name: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        rows = "" if self.rows is None else f"[{self.rows.start}:{self.rows.stop}]"
        return f"{self.released}{rows} -> {self.name} {self.shape}"


class ReleasedFormat(NamedTuple):
    """How the authors of one family named their tensors."""

    title: str  # of the family, for messages
    landmark: re.Pattern[str]  # matches the start of some name in every file of the family and in no other
    source_of: Callable[[str], Source]  # from a name of ours
    arguments: Callable[[Mapping[str, Tensor]], dict[str, Any]]  # of the model's constructor, from a released file

    def recognises(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the names are this family's."""
        return any(self.landmark.match(name) for name in state_dict)


class Renaming(NamedTuple):
    """A released state dict under our names, as far as it goes."""

    tensors: dict[str, Tensor]
    lines: list[Renamed]
    missing: list[str]  # released names that a model of ours needs
    left_over: list[str]  # released names that nothing needs
    misshapen: list[str]  # what does not fit, in words


class Converted(NamedTuple):
    """A released state dict under our names, checked against the model it was converted for."""

    state_dict: dict[str, Tensor]
    arguments: dict[str, Any]  # of the model's constructor
    lines: list[Renamed]


def size_of(state_dict: Mapping[str, Tensor], name: str, axis: int) -> int:
    """Length of one side of a tensor that has to be there.

    Raises:
        ConversionError: it is not, or has no such side.
    """
    if name not in state_dict:
        raise ConversionError(f"cannot tell the architecture: {name} is missing")
    shape = tuple(state_dict[name].shape)
    if len(shape) <= axis:
        raise ConversionError(f"cannot tell the architecture: {name} is {shape}, of too few dimensions")
    return shape[axis]


def count(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """One more than the highest number that follows ``prefix`` in the names; 0 when none does."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return max((int(match[1]) + 1 for name in state_dict if (match := pattern.match(name))), default=0)


def replaced(name: str, table: Mapping[str, str]) -> str:
    """The name with the part that the table knows replaced: all of it, or all but ``.weight``, ``.bias`` …."""
    stem, _, leaf = name.rpartition(".")
    return table.get(name) or (f"{table[stem]}.{leaf}" if stem in table else name)


def recognise(state_dict: Mapping[str, Tensor], formats: Iterable[ReleasedFormat]) -> ReleasedFormat:
    """The format that the names are in.

    Raises:
        ConversionError: none of them, or one of them behind a prefix.
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
    """Whether reshaping only merges or splits the leading dimension, as of the directions of a scan."""
    long, short = (shape, target) if len(shape) > len(target) else (target, shape)
    return len(long) == len(short) + 1 >= 2 and (long[0] * long[1], *long[2:]) == tuple(short)


def rename(
    state_dict: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], source_of: Callable[[str], Source]
) -> Renaming:
    """Give the tensors of a released state dict our names and shapes; never fails.

    Args:
        state_dict: the released one.
        shapes: names and shapes of the model's own tensors.
        source_of: where each is found.
    """
    tensors: dict[str, Tensor] = {}
    lines: list[Renamed] = []
    missing: dict[str, None] = {}  # a set that keeps the order: two tensors may come from one
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
            size = -(-tensor.shape[0] // parts)  # rounded up: rows that do not divide fit nowhere
            rows = slice(part * size, (part + 1) * size)
            tensor = tensor[rows].clone()  # a view would drag the other parts into every file it is saved to
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
    """Convert a released state dict, all of it, and prove it by loading it into the model it describes.

    Args:
        state_dict: the released one.
        released: its format.
        build: the constructor of the family's model.
        overrides: arguments of the constructor that no file can tell.

    Raises:
        ConversionError: a tensor is missing, left over or of another shape; the message names them.
    """
    arguments = {**released.arguments(state_dict), **overrides}
    model = build(**arguments)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
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
    model.load_state_dict(renaming.tensors, strict=True)
    return Converted(renaming.tensors, arguments, renaming.lines)


def filter_released(
    state_dict: Mapping[str, Tensor], model: nn.Module, released: ReleasedFormat
) -> Mapping[str, Tensor]:
    """A released state dict under the model's names; any other one as it is.

    What the model has no use for keeps its released name, so that a strict load names it.

    Args:
        state_dict: what is going to be loaded.
        model: the model that will load it.
        released: the format to look for.
    """
    if not released.recognises(state_dict):
        return state_dict
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    renaming = rename(state_dict, shapes, released.source_of)
    return renaming.tensors | {name: state_dict[name] for name in renaming.left_over}
