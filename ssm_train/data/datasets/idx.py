"""The idx file format of MNIST and its kin: a magic number, big-endian sizes, then unsigned bytes."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from ssm_core.errors import DataError


def read_idx(path: str | Path, dimensions: int) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes.

    Args:
        path: the ``.gz`` file.
        dimensions: how many the array has to have: 1 for labels, 3 for images.

    Raises:
        DataError: it is missing, truncated, corrupt or holds something else.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    header = 4 * (1 + dimensions)
    expected = 0x0800 | dimensions  # 0x08 stands for unsigned bytes
    if len(content) < header or struct.unpack(">I", content[:4])[0] != expected:
        raise DataError(
            f"{path} is no idx file of unsigned bytes in {dimensions} dimensions (magic {content[:4].hex()})"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DataError(f"{path} should hold {shape} bytes and holds {len(content) - header}: it is cut off or damaged")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
