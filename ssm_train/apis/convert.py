"""Checkpoints that the authors of QuadMamba and MambaTree released, under the names of this project."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

import quadtree_ssm.checkpoint
import quadtree_ssm.models
import tree_ssm.checkpoint
import tree_ssm.models
from ssm_core import addresses
from ssm_core.conversion import ConversionError, Converted, ReleasedFormat, convert, recognise
from ssm_core.weights import read_state_dict
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.runtime.files import check_file


class Family(NamedTuple):
    """What a conversion needs to know about a family.

    Attributes:
        released: how the authors named the tensors.
        type: the model's type in configs.
        build: the model's constructor.
        architectures: the arguments of every published size.
    """

    released: ReleasedFormat
    type: str
    build: Callable[..., nn.Module]
    architectures: Mapping[str, NamedTuple]


FAMILIES = (
    Family(
        quadtree_ssm.checkpoint.RELEASED,
        "quadtree_ssm.QuadMamba",
        quadtree_ssm.models.QuadMamba,
        quadtree_ssm.models.ARCHITECTURES,
    ),
    Family(
        tree_ssm.checkpoint.RELEASED,
        "tree_ssm.MambaTreeV",
        tree_ssm.models.MambaTreeV,
        tree_ssm.models.ARCHITECTURES,
    ),
)


class Conversion(NamedTuple):
    """A converted checkpoint.

    Attributes:
        family: whose model it is.
        converted: its tensors, and lines that say what became of each.
        arguments: the model's arguments, as a config has them.
        entry: the entry of the source file that held the weights; empty for a bare state dict.
    """

    family: Family
    converted: Converted
    arguments: dict[str, Any]
    entry: str

    def describe(self) -> str:
        """The model in a few words."""
        tensors = self.converted.state_dict
        parameters = sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
        kind = "backbone" if "out_indices" in self.arguments else "classifier"
        size = self.arguments.get("arch", "(of no published size)")
        title = self.family.released.title
        return f"{title} {size}, {kind}: {len(tensors)} tensors, {parameters / 1e6:.3f} M values"


def convert_file(
    source: str | Path, destination: Path, entry: str | None = None, prefix: str = "", global_predictor: bool = False
) -> Conversion:
    """Convert one file. Nothing is written unless all of it was used and the model loads the result.

    The written file is ``{"state_dict": ..., "meta": ...}``; ``meta["model"]`` is the model as a config has it.

    Args:
        source: the authors' file, ``{"model": state_dict}``, of a classifier or a backbone; or its address.
        destination: the file to write.
        entry: the entry of the source that holds the weights; found by the usual names if left out.
        prefix: convert the tensors whose names begin with it, such as a detector's ``"backbone."``.
        global_predictor: the QuadMamba was trained with the first release's predictor, which sees quadrant means. No
            file tells.

    Raises:
        CheckpointError: the source cannot be read, or holds no weights.
        ConversionError: the source is of no known family or incomplete, or the two files are one.
        WriteError: the destination cannot be written.
    """
    check_file(destination)
    local = addresses.local_file(source)
    if destination.exists() and local.exists() and destination.samefile(local):
        raise ConversionError(f"DST is SRC: give another name than {destination} for the converted file")
    state_dict, entry = read_state_dict(local, entry, prefix)
    released = recognise(state_dict, (family.released for family in FAMILIES))
    family = next(family for family in FAMILIES if family.released is released)
    overrides = {}
    if global_predictor:
        if family.build is not quadtree_ssm.models.QuadMamba:
            raise ConversionError(f"--global-predictor is for QuadMamba, and {source} is a {released.title}")
        overrides["predictor_context"] = "global"
    converted = convert(state_dict, released, family.build, **overrides)
    arch = name_of(family, converted.arguments)
    arguments = converted.arguments if arch is None else {"arch": arch, **converted.arguments}
    # `load_from` shows these where the checkpoint does not fit a config, as for checkpoints of our own training.
    meta = {"model": {"type": family.type, **arguments}, "config": addresses.name_of(source), "entry": entry}
    ckpt.save({"state_dict": converted.state_dict, "meta": meta}, destination)
    return Conversion(family, converted, arguments, entry)


def name_of(family: Family, arguments: Mapping[str, Any]) -> str | None:
    """The published size of these arguments, or None."""
    for name, architecture in family.architectures.items():
        known = architecture._asdict()
        if all(arguments[key] == value for key, value in known.items() if key in arguments):
            return name
    return None
