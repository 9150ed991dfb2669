"""Nuclei: one fluorescence image with 125 outlined nuclei, from the Data Science Bowl 2018, which stardist ships.

The left part of the image is for training, and the right part for validation. Both are cut into tiles. The tiles for
training overlap. A nucleus on the border belongs to both parts, to each with the pixels that lie in it.
"""

import hashlib
import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.prepare.coco_json import CocoFile
from ssm_train.data.prepare.pictures import begin_split, write_picture
from ssm_train.runtime.files import write_atomically

CLASSES = ("background", "nucleus", "boundary")  # names of the labels in label maps
BACKGROUND, NUCLEUS, BOUNDARY = range(3)
# SHA-256 of the files in stardist 0.9.2. Other releases have the same files. Files that differ are refused.
FILES = {
    "img2d.tif": "f9ccc1571b92c861ff87e28463068b43f61bd47357ed0503f711e5cd1eb97750",
    "mask2d.tif": "59ad5e820b7982ca9d13e946fa6e7f64e2714899e00a2ae6c69aa79aad53d46f",
}
_INSIDE = "stardist/data/images"
# Any wheel of stardist will do, because nothing in it is run.
_DOWNLOAD = (
    "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--implementation=cp",
    "--python-version=3.11", "--abi=cp311", "--platform=manylinux_2_28_x86_64", "stardist==0.9.2",
)  # fmt: skip
_TRAIN_SHARE = 0.75  # share of the width that is for training
_MIN_VISIBLE = 0.25  # a nucleus of which a tile has a smaller share is marked as a crowd


def prepare_nuclei(root: Path, source: Path | None, tile: int = 128) -> str:
    """Write ``root/nuclei/{train,val}.json``, ``{train,val}/*.png`` and ``{train,val}_labels/*.png``.

    The two source files are kept beside them. Without ``source`` they are taken from ``root/nuclei``, else from an
    installed stardist, else from stardist's wheel, which pip downloads.

    Args:
        root: folder of all datasets.
        source: folder with both source files, or a wheel of stardist; None to look as above.
        tile: side of the tiles in pixels.

    Returns:
        A line on each split.

    Raises:
        ConfigError: tiles of that size do not fit the image.
        DataError: the source files cannot be found or downloaded, or differ from stardist's.
        MissingPackageError: pycocotools is not installed.
    """
    folder = root / "nuclei"
    contents = _find(folder, source)
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != FILES[name]:
            raise DataError(
                f"{name} is not the file of stardist 0.9.2 (its SHA-256 differs): take the file of that release"
            )
    for name, content in contents.items():
        write_atomically(folder / name, lambda file, content=content: file.write(content))
    grey, ids = (np.array(Image.open(io.BytesIO(content))) for content in contents.values())
    border = int(grey.shape[1] * _TRAIN_SHARE)
    if not 32 <= tile <= min(border, grey.shape[1] - border):
        raise ConfigError(f"nuclei take a --tile of 32 … {min(border, grey.shape[1] - border)} pixels, not {tile}")
    image, labels = to_eight_bits(grey), label_map(ids)
    parts = {"train": (slice(None, border), tile // 2), "val": (slice(border, None), tile)}
    return "\n".join(
        _write_split(folder, split, image[:, part], ids[:, part], labels[:, part], tile, step)
        for split, (part, step) in parts.items()
    )


def to_eight_bits(
    grey: np.ndarray,  # [H, W] uint16
) -> np.ndarray:  # [H, W] uint8
    """Stretch the brightness so that the brightest thousandth of the pixels reaches 255."""
    top = max(float(np.percentile(grey, 99.9)), 1.0)
    return (np.clip(grey / top, 0, 1) * 255).round().astype(np.uint8)


def label_map(
    ids: np.ndarray,  # [H, W], 0 for background
) -> np.ndarray:  # [H, W] uint8
    """Label every pixel as background, nucleus or boundary.

    A pixel of a nucleus is boundary if one of its eight neighbours is background or another nucleus. The edge of the
    image does not make a pixel boundary.
    """
    padded = np.pad(ids, 1, mode="edge")
    height, width = ids.shape
    same = np.ones(ids.shape, bool)
    for dy in range(3):
        for dx in range(3):
            same &= padded[dy : dy + height, dx : dx + width] == ids
    return np.where(ids == 0, BACKGROUND, np.where(same, NUCLEUS, BOUNDARY)).astype(np.uint8)


def _find(folder: Path, source: Path | None) -> dict[str, bytes]:
    """Find the two source files, and return their contents by name."""
    if source is not None:
        return _read_wheel(source) if source.is_file() else _read_folder(source)
    package = importlib.util.find_spec("stardist")
    places = [Path(place) / "data" / "images" for place in (package and package.submodule_search_locations) or []]
    for place in (folder, *places):
        if all((place / name).is_file() for name in FILES):
            return _read_folder(place)
    with tempfile.TemporaryDirectory() as temporary:
        pip = [sys.executable, "-m", "pip", *_DOWNLOAD, "--dest", temporary]
        done = subprocess.run(pip, capture_output=True, text=True)
        wheel = next(Path(temporary).glob("stardist-*.whl"), None)
        if done.returncode or wheel is None:
            reason = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
            raise DataError(
                f"cannot download stardist ({reason}): get its wheel, or {' and '.join(FILES)} from its package, in "
                "another way and name that file or folder with --from"
            )
        return _read_wheel(wheel)


def _read_folder(folder: Path) -> dict[str, bytes]:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder} has no {' and no '.join(missing)}: name stardist's folder data/images or its wheel with --from"
        )
    return {name: (folder / name).read_bytes() for name in FILES}


def _read_wheel(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as wheel:
            return {name: wheel.read(f"{_INSIDE}/{name}") for name in FILES}
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise DataError(f"{path} is no wheel of stardist: {' '.join(str(error).split())}") from None


def _write_split(
    folder: Path,
    split: str,
    image: np.ndarray,  # [H, W] uint8
    ids: np.ndarray,  # [H, W]
    labels: np.ndarray,  # [H, W] uint8
    tile: int,
    step: int,
) -> str:
    coco = CocoFile([CLASSES[NUCLEUS]])
    images, maps, annotations = begin_split(folder, split, ".png")
    whole = np.bincount(ids.ravel())
    for y in _starts(image.shape[0], tile, step):
        for x in _starts(image.shape[1], tile, step):
            place = (slice(y, y + tile), slice(x, x + tile))
            name = f"{y:03d}_{x:03d}.png"
            write_picture(images / name, np.repeat(image[place][:, :, None], 3, axis=2))
            write_picture(maps / name, labels[place])
            number = coco.add_image(name, tile, tile)
            for instance in np.unique(ids[place][ids[place] > 0]):
                mask = ids[place] == instance
                coco.add_instance(number, 1, mask, crowd=bool(mask.sum() < _MIN_VISIBLE * whole[instance]))
    coco.write(annotations)
    fragments = sum(annotation["iscrowd"] for annotation in coco.annotations)
    return (
        f"{images}: {len(coco.images)} tiles of {tile} × {tile}, {len(coco.annotations) - fragments} nuclei and "
        f"{fragments} fragments of nuclei (crowds) in them, of {np.count_nonzero(whole[1:])} different nuclei"
    )


def _starts(length: int, tile: int, step: int) -> list[int]:
    """Where tiles begin along one axis, so that they cover all of it."""
    return sorted({*range(0, length - tile, step), length - tile})
