"""Image folders, packed into WebDataset's shards or into a dataset of Hugging Face; and digits as such a folder."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ssm_core.errors import DataError, MissingPackageError
from ssm_train.data.datasets import Digits, ImageFolder
from ssm_train.data.images import is_data, write_png
from ssm_train.runtime.files import assembling, write_atomically


def write_digits(root: Path, size: int = 32) -> str:
    """Write scikit-learn's digits to ``root/digits/{train,test}/<digit>/<number>.png``, as :class:`.Digits` has them.

    Args:
        root: folder of all datasets.
        size: side of an image in pixels.

    Returns:
        A line on what is there.

    Raises:
        WriteError: a file cannot be written.
    """
    counts = []
    for split in ("train", "test"):
        data = Digits(lambda image: image, split, size)
        for index, number in enumerate(data.indices):
            place = root / "digits" / split / data.classes[data.labels[index]] / f"{number:04d}.png"
            write_png(place, data.load(index))
        counts.append(f"{len(data)} {split} images")
    return f"{root / 'digits'}: {' and '.join(counts)} of digits"


def pack_shards(root: Path, source: Path | None, per_shard: int) -> str:
    """Pack an image folder into shards, ``root/<name>-shards/<split>-<number>.tar``.

    A sample has the image as it is, the number of its class (``.cls``) and the name of its class (``.txt``). The images
    are in the order of :class:`.ImageFolder`, that is, by class: shuffle them where the shards are read as a stream.

    Args:
        root: folder of all datasets.
        source: the image folder, with ``<split>/<class>/<image>``.
        per_shard: number of images in a shard.

    Returns:
        A line on what is there.

    Raises:
        DataError: there is no image folder.
        WriteError: a shard cannot be written.
    """
    folder = _folder(source)
    target, said = root / f"{folder.name}-shards", []
    for split in _splits(folder):
        data = ImageFolder(lambda image: image, str(folder), split)
        starts = range(0, len(data), per_shard)
        for number, start in enumerate(starts):
            chosen = range(start, min(start + per_shard, len(data)))
            write_atomically(
                target / f"{split}-{number:06d}.tar", lambda file, chosen=chosen, data=data: _shard(file, data, chosen)
            )
        said.append(f"{len(data)} images in {split}-{{000000..{len(starts) - 1:06d}}}.tar")
    return f"{target}: {', '.join(said)}"


def pack_table(root: Path, source: Path | None) -> str:
    """Pack an image folder into a dataset of Hugging Face, ``root/<name>-huggingface``, as ``save_to_disk`` writes it.

    Args:
        root: folder of all datasets.
        source: see :func:`pack_shards`.

    Returns:
        A line on what is there.

    Raises:
        DataError: there is no image folder.
        MissingPackageError: the package datasets is not installed.
        WriteError: the dataset cannot be written.
    """
    folder = _folder(source)
    try:
        import datasets
    except ImportError:
        raise MissingPackageError("datasets", "a dataset of Hugging Face") from None
    target, tables = root / f"{folder.name}-huggingface", {}
    for split in _splits(folder):
        data = ImageFolder(lambda image: image, str(folder), split)
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=data.classes)}
        columns = {"image": data.paths, "label": data.labels}
        tables[split] = datasets.Dataset.from_dict(columns, datasets.Features(kinds), split=split)
    with assembling(target) as temporary:
        datasets.DatasetDict(tables).save_to_disk(temporary)  # with the contents of the images
    return f"{target}: {', '.join(f'{len(table)} images in {split}' for split, table in tables.items())}"


def _folder(source: Path | None) -> Path:
    if source is None:
        raise DataError("name the image folder, which has <split>/<class>/<image>, with --from")
    if not source.is_dir():
        raise DataError(f"there is no image folder {source}")
    return source.resolve()


def _splits(folder: Path) -> Iterator[str]:
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and is_data(path.name))
    if not found:
        raise DataError(f"{folder} has no folder for a split, such as train")
    return iter(found)


def _shard(file: BinaryIO, data: ImageFolder, chosen: range) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        for index in chosen:
            path, label = Path(data.paths[index]), data.labels[index]
            for ending, content in (
                (path.suffix.lower(), path.read_bytes()),
                (".cls", str(label).encode()),
                (".txt", data.classes[label].encode()),
            ):
                info = tarfile.TarInfo(f"{index:08d}{ending}")  # without a time, so that the same folder gives the same
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
