"""Trains a small QuadMamba and a small MambaTreeV on handwritten digits on the CPU, and draws what their scans saw.

    tree-ssm quickstart [--work-dir work_dirs/quickstart]

The work folder then has a run folder for each model (log, checkpoints, curves.json), curves.png, and scans.png: test
images with the quadrants that each QuadMamba block chose and the spanning tree that each MambaTreeV block grew.
"""

import argparse
from pathlib import Path

MODELS = {"QuadMamba": "quadmamba/quadmamba-nano_digits", "MambaTreeV": "mambatree/mambatree-nano_digits"}
PICTURED_CLASSES = (0, 3, 4, 7)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm quickstart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/quickstart"))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train both, draw, and print the figures."""
    folder = parse_arguments(arguments).work_dir
    # Imported after parsing so that --help stays fast.
    from ssm_train.apis.quickstart import quick_start

    runs = quick_start(MODELS, folder, PICTURED_CLASSES)
    print()
    for run in runs:
        print(f"{run.name:10}  held-out top-1 {run.result.last():.2f} %  ({run.seconds:.0f} s)")
    print(f"curves: {folder / 'curves.png'}\nwhat the scans saw: {folder / 'scans.png'}")
