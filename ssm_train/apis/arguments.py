"""Types of command-line arguments, which refuse a value before anything slow is imported."""

import argparse
import math
from collections.abc import Callable

LARGEST_SEED = 2**32 - 1  # NumPy's
LARGEST_COUNT = 2**31 - 1
LARGEST_SIDE = 1 << 16  # pixels, or tokens of a row


def whole_number(low: int = 1, high: int = LARGEST_COUNT) -> Callable[[str], int]:
    """The type of a whole number.

    Args:
        low: the lowest that is taken.
        high: the highest that is taken.
    """

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return value

    return read


def number(low: float, high: float = math.inf, above: bool = False) -> Callable[[str], float]:
    """The type of a number that is finite.

    Args:
        low: the lowest that is taken.
        high: the highest that is taken.
        above: whether ``low`` itself is refused.
    """

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low <= value <= high and math.isfinite(value)) or (above and value == low):
            limits = f"{'above' if above else 'from'} {low:g}{'' if high == math.inf else f' to {high:g}'}"
            raise argparse.ArgumentTypeError(f"{text!r} is no number {limits}")
        return value

    return read


def add_ways_of_prediction(parser: argparse.ArgumentParser) -> None:
    """Add the switches of :func:`.prediction_config` to a command line.

    Args:
        parser: gets ``tta``, ``tile`` and ``overlap``.
    """
    parser.add_argument(
        "--tta",
        action="store_true",
        help="merge the predictions for every image in several sizes, also flipped if training flips images",
    )
    parser.add_argument(
        "--tile",
        type=whole_number(high=LARGEST_SIDE),
        metavar="SIDE",
        help="let the model see tiles of this many pixels, each prepared as an image is, and merge what it finds in "
        "them: for large images",
    )
    parser.add_argument(
        "--overlap",
        type=whole_number(low=0, high=LARGEST_SIDE),
        metavar="PIXELS",
        help="what two tiles share, at least as much as the largest object (default: a quarter of SIDE)",
    )
