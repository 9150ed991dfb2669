"""Convert a released QuadMamba or MambaTree checkpoint to this repository's names.

    tree-ssm convert SRC DST

SRC is the authors' file, ``{'model': state_dict}``, of a classifier or a backbone. DST will be
``{'state_dict': ..., 'meta': ...}``, where ``meta['model']`` is the model as a config has it. Every renamed tensor is
listed. Nothing is written unless all of SRC was used and the model loads the result.
"""

import argparse
from pathlib import Path


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SRC", help="the released file, or its address")
    parser.add_argument("destination", metavar="DST", type=Path, help="the file to write")
    parser.add_argument(
        "--entry", help="the entry of SRC that holds the weights, such as model_ema (default: model or state_dict)"
    )
    parser.add_argument(
        "--prefix", default="", help="convert the tensors whose names begin with it, such as a detector's 'backbone.'"
    )
    parser.add_argument(
        "--global-predictor",
        action="store_true",
        help="the QuadMamba was trained with the first release's predictor, which sees quadrant means (no file tells)",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Convert and list what became of every tensor."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast.
    from ssm_train.apis.convert import convert_file

    done = convert_file(args.source, args.destination, args.entry, args.prefix, args.global_predictor)
    print(*done.converted.lines, sep="\n")
    print(done.describe())
    kind, words = done.family.type, ", ".join(f"{key}={value!r}" for key, value in done.arguments.items())
    print(
        f"from {args.source}{f' ({done.entry})' if done.entry else ''} to {args.destination}; in a config its model is"
    )
    print(f"dict(type={kind!r}, {words})")
