"""ImageNet-1k (ILSVRC2012): link it into class folders, and count it."""

from pathlib import Path

from ssm_core.errors import DataError
from ssm_core.writing import explained
from ssm_train.data.inside import check_name
from ssm_train.data.prepare.arrange import link
from ssm_train.runtime.files import make_folder

SIZES = {"train": 1_281_167, "val": 50_000}
CLASSES = 1000


def prepare_imagenet(root: Path, source: Path | None) -> str:
    """Arrange a downloaded ILSVRC2012 as ``root/imagenet/{train,val}/<wnid>/*.JPEG`` by links, and count it.

    ``source`` holds ``train/<wnid>/*.JPEG``. Its folder ``val`` is arranged in the same way, or is flat and has a file
    beside it that maps images to classes.

    Args:
        root: folder of all datasets.
        source: folder of the unpacked download, or None to check what is in ``root``.

    Returns:
        A line on each split.

    Raises:
        DataError: a folder or a class is missing, or the classes of a flat ``val`` are unknown or no names of folders.
    """
    target = root / "imagenet"
    if source is not None and source.resolve() != target.resolve():
        for split in SIZES:
            _arrange_split(source, target, split)
    elif not target.is_dir():
        raise DataError(
            f"there is no {target}: download ILSVRC2012 from image-net.org, unpack it so that a folder has "
            "train/<wnid>/*.JPEG and val/*.JPEG, and name that folder with --from"
        )
    elif any((target / "val").glob("*.JPEG")):
        _arrange_split(target, target, "val")
    return "\n".join(_count_split(target, split) for split in SIZES)


def _arrange_split(source: Path, target: Path, split: str) -> None:
    """Link every class folder of a split. A flat validation folder is sorted into class folders instead."""
    folder = source / split
    if not folder.is_dir():
        raise DataError(f"there is no {folder}: name the folder that has train and val with --from")
    flat = sorted(folder.glob("*.JPEG"))
    make_folder(target / split)
    if not flat:
        for wnid in sorted(p for p in folder.iterdir() if p.is_dir()):
            link(wnid, target / split / wnid.name)
        return
    classes = _read_mapping(source, folder)
    for image in flat:
        if image.name not in classes:
            raise DataError(f"the validation mapping of {source} does not name {image.name}")
        place = target / split / classes[image.name] / image.name
        if image.parent == target / split:
            make_folder(place.parent)
            with explained(place):
                image.rename(place)
        else:
            link(image, place)


def _read_mapping(source: Path, folder: Path) -> dict[str, str]:
    """Class of every validation image, from a file with lines ``NAME WNID``, separated by spaces or a comma."""
    names = ("LOC_val_solution.csv", "val_map.txt", "val_annotations.txt", "synset_labels.txt")
    path = next((p for f in (source, folder) for name in names if (p := f / name).is_file()), None)
    if path is None:
        raise DataError(
            f"{folder} is flat and its classes are unknown: put one of {', '.join(names)} into {source}, with an "
            "image's name and its wnid on every line (for synset_labels.txt the wnid alone, in the images' order)"
        )
    lines = [line.replace(",", " ").split() for line in path.read_text().splitlines() if line.strip()]
    if path.name == "synset_labels.txt":
        images = sorted(folder.glob("*.JPEG"))
        if len(lines) != len(images):
            raise DataError(f"{path} has {len(lines)} lines for {len(images)} images")
        return {image.name: check_name(words[0], path) for image, words in zip(images, lines, strict=True)}
    pairs = [words[:2] for words in lines if len(words) > 1 and words[1].startswith("n")]
    return {name if name.endswith(".JPEG") else f"{name}.JPEG": check_name(wnid, path) for name, wnid in pairs}


def _count_split(target: Path, split: str) -> str:
    folder = target / split
    if not folder.is_dir():
        raise DataError(f"there is no {folder}")
    counts = {p.name: sum(1 for f in p.iterdir() if f.suffix == ".JPEG") for p in folder.iterdir() if p.is_dir()}
    total, expected = sum(counts.values()), SIZES[split]
    empty = sorted(name for name, n in counts.items() if not n)
    if len(counts) != CLASSES or empty:
        raise DataError(f"{folder} has {len(counts)} class folders, {len(empty)} of them empty; ImageNet has {CLASSES}")
    missing = f", {expected - total} missing" if total < expected else ""
    return f"{folder}: {total} images in {len(counts)} classes{missing}"
