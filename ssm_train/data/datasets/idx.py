"""The idx file format of MNIST and similar datasets: a magic number, big-endian sizes, then unsigned bytes."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from ssm_core.errors import DataError


def missing_file(path: str | Path) -> DataError:
    """The error about a file of a dataset that is not there."""
    return DataError(f"there is no file {path}; `tree-ssm prepare-data --help` tells how to make or arrange datasets")


def read_idx(path: str | Path, dimensions: int) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes.

    Args:
        path: the ``.gz`` file.
        dimensions: number of dimensions that the array must have: 1 for labels, 3 for images.

    Returns:
        The array, read-only, of type uint8.

    Raises:
        DataError: the file is missing, truncated or corrupt, or holds something else.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise missing_file(path) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    header = 4 * (1 + dimensions)
    expected = 0x0800 | dimensions  # 0x08 is the code of unsigned bytes
    if len(content) < header or struct.unpack(">I", content[:4])[0] != expected:
        raise DataError(
            f"{path} is no idx file of unsigned bytes in {dimensions} dimensions: its magic number is "
            f"{content[:4].hex()}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DataError(f"{path} is cut off or damaged: it holds {len(content) - header} bytes for the shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
