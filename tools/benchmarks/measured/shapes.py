"""The shapes of maps, as a command line has them."""

import argparse
from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Shape:
    """Batch, height, width and channels of a map."""

    batch: int
    height: int
    width: int
    channels: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Read ``BxHxWxD``."""
        try:
            shape = cls(*map(int, text.split("x")))
        except (TypeError, ValueError):
            shape = None
        if shape is None or min(astuple(shape)) < 1:
            raise argparse.ArgumentTypeError(f"a shape is written BxHxWxD, such as 4x56x56x160; got {text!r}")
        return shape

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}x{self.channels}"
