"""Makes small data sets in the formats of real ones."""

import gzip
import struct

import numpy as np

from ssm_train.data.datasets.fashion_mnist import FILES


def write_idx(path, array):
    """Write an array of bytes as a gzipped idx file."""
    header = struct.pack(f">{1 + array.ndim}I", 0x0800 | array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), 1))


def items(count, seed):
    """Draw light rectangles with a faint halo on black, 28 × 28 pixels. The ten classes take turns."""
    draw = np.random.RandomState(seed)
    images = np.zeros((count, 28, 28), np.uint8)
    for image in images:
        (y, x), (height, width) = draw.randint(1, 8, 2), draw.randint(8, 18, 2)
        image[y - 1 : y + height + 1, x - 1 : x + width + 1] = 3
        image[y : y + height, x : x + width] = draw.randint(100, 256, (height, width))
    return images, (np.arange(count) % 10).astype(np.uint8)


def fashion_mnist(folder, distinct=100):
    """Write four files with Fashion-MNIST's names and numbers of images, and return their folder.

    Args:
        folder: where to write. It is made if it does not exist.
        distinct: number of different images in a split. They are repeated.
    """
    folder.mkdir(exist_ok=True)
    for seed, (split, count) in enumerate((("train", 60_000), ("test", 10_000))):
        images, labels = items(distinct, seed)
        repeats = count // distinct
        write_idx(folder / FILES[split][0], np.tile(images, (repeats, 1, 1)))
        write_idx(folder / FILES[split][1], np.tile(labels, repeats))
    return folder
