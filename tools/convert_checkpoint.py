"""Convert a released QuadMamba or MambaTree checkpoint to this repository's names.

    python tools/convert_checkpoint.py SRC DST

SRC is the authors' file, ``{'model': state_dict}``, a classifier's or a backbone's. DST becomes
``{'state_dict': ..., 'meta': ...}``; ``meta['model']`` is the model in the form a config has it. Every tensor that was
renamed is listed. Nothing is written unless all of SRC was used, the model got all it needs and loads it.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import quadtree_ssm.checkpoint
import quadtree_ssm.models
import tree_ssm.checkpoint
import tree_ssm.models
from ssm_core.checkpoint import ConversionError, Converted, ReleasedFormat, convert, read_state_dict, recognise
from ssm_train.runtime.files import write_atomically


class Family(NamedTuple):
    """What the tool needs to know of a family."""

    released: ReleasedFormat
    type: str  # in configs
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


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    description, *_, details = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SRC", type=Path, help="the released file")
    parser.add_argument("destination", metavar="DST", type=Path, help="the file to write")
    parser.add_argument(
        "--entry", help="the entry of SRC that holds the weights, such as model_ema; model or state_dict if left out"
    )
    parser.add_argument(
        "--prefix", default="", help="convert the names that begin with it, such as a detector's 'backbone.'"
    )
    parser.add_argument(
        "--global-predictor",
        action="store_true",
        help="the QuadMamba was trained with the first release's predictor, which sees quadrant means (no file tells)",
    )
    return parser.parse_args(argv)


def name_of(family: Family, arguments: Mapping[str, Any]) -> str | None:
    """The variant of these arguments, or None."""
    for name, architecture in family.architectures.items():
        known = architecture._asdict()
        if all(arguments[key] == value for key, value in known.items() if key in arguments):
            return name
    return None


def describe(family: Family, converted: Converted, arch: str | None) -> str:
    """The converted model in a few words."""
    parameters = sum(tensor.numel() for tensor in converted.state_dict.values() if tensor.is_floating_point())
    kind = "backbone" if "out_indices" in converted.arguments else "classifier"
    return (
        f"{family.released.title} {arch or '(of no published size)'}, {kind}: "
        f"{len(converted.state_dict)} tensors, {parameters / 1e6:.3f} M values"
    )


def run(options: argparse.Namespace) -> None:
    """Convert one file.

    Raises:
        ConversionError: SRC is unreadable, unknown or incomplete, or DST is SRC.
    """
    if options.destination.exists() and options.destination.samefile(options.source):
        raise ConversionError(f"DST is SRC: give another name than {options.destination} for the converted file")
    state_dict, entry = read_state_dict(options.source, options.entry, options.prefix)
    released = recognise(state_dict, (family.released for family in FAMILIES))
    family = next(family for family in FAMILIES if family.released is released)
    overrides = {}
    if options.global_predictor:
        if family.build is not quadtree_ssm.models.QuadMamba:
            raise ConversionError(f"--global-predictor is for QuadMamba, and {options.source} is a {released.title}")
        overrides["predictor_context"] = "global"
    converted = convert(state_dict, released, family.build, **overrides)
    arch = name_of(family, converted.arguments)
    arguments = converted.arguments if arch is None else {"arch": arch, **converted.arguments}
    # What `load_from` shows when the checkpoint does not fit a config, as for checkpoints of our own training.
    meta = {"model": {"type": family.type, **arguments}, "config": options.source.name, "entry": entry}
    write_atomically(
        options.destination, lambda file: torch.save({"state_dict": converted.state_dict, "meta": meta}, file)
    )
    print(*converted.lines, sep="\n")
    print(describe(family, converted, arch))
    print(f"from {options.source}{f' ({entry})' if entry else ''} to {options.destination}; in a config its model is")
    print(f"dict(type={family.type!r}, {', '.join(f'{key}={value!r}' for key, value in arguments.items())})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    options = parse_arguments(argv)
    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
