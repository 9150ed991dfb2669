"""Puts datasets where the configs look for them: python tools/prepare_data.py NAME."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ssm_core.engine import cli
from ssm_core.engine.datasets.fashion_mnist import CLASSES, FILES
from ssm_core.engine.datasets.idx import read_idx
from ssm_core.engine.errors import DataError
from ssm_core.engine.files import write_atomically

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_SIZES = {"train": 60_000, "test": 10_000}
IMAGENET_SIZES = {"train": 1_281_167, "val": 50_000}
IMAGENET_CLASSES = 1000


def prepare_fashion_mnist(root: Path, source: Path | None) -> str:
    """Copy the four files to ``root/fashion-mnist`` unless they are there, and verify them."""
    target = root / "fashion-mnist"
    names = [name for pair in FILES.values() for name in pair]
    folders = [source] if source is not None else [target, DEBIAN_FASHION_MNIST]
    found = next((folder for folder in folders if all((folder / name).is_file() for name in names)), None)
    if found is None:
        raise DataError(
            f"no Fashion-MNIST in {' or '.join(map(str, folders))}: install the Debian package dataset-fashion-mnist, "
            f"or name the folder that has {names[0]} and the three others with --from"
        )
    counts = [_verify_fashion_mnist(found, split) for split in FILES]
    if found.resolve() != target.resolve():
        for name in names:
            content = (found / name).read_bytes()
            write_atomically(target / name, lambda file, content=content: file.write(content))
    return f"{target}: {' and '.join(f'{n} {split} images' for n, split in zip(counts, FILES, strict=True))}, verified"


def _verify_fashion_mnist(folder: Path, split: str) -> int:
    images, labels = (read_idx(folder / name, dimensions=d) for name, d in zip(FILES[split], (3, 1), strict=True))
    expected = FASHION_MNIST_SIZES[split]
    if len(images) != expected or len(labels) != expected or images.shape[1:] != (28, 28):
        raise DataError(
            f"{folder / FILES[split][0]} holds {len(images)} images of {images.shape[1:]} and {len(labels)} labels; "
            f"Fashion-MNIST has {expected} of (28, 28)"
        )
    wrong = [CLASSES[label] for label, n in Counter(labels.tolist()).items() if n != expected // len(CLASSES)]
    if wrong:
        raise DataError(f"{folder / FILES[split][1]} has another number of {wrong[0]} images than Fashion-MNIST")
    return expected


def prepare_digits(root: Path, source: Path | None) -> str:
    """Nothing to do."""
    return "digits: nothing to prepare, scikit-learn brings them along"


def prepare_imagenet(root: Path, source: Path | None) -> str:
    """Arrange a downloaded ILSVRC2012 as ``root/imagenet/{train,val}/<wnid>/*.JPEG`` by links, and count it.

    ``source`` holds ``train/<wnid>/*.JPEG``, and ``val`` either the same way or flat with a mapping beside it. Without
    a source what is at the target is checked.
    """
    target = root / "imagenet"
    if source is not None and source.resolve() != target.resolve():
        for split in IMAGENET_SIZES:
            _arrange_split(source, target, split)
    elif not target.is_dir():
        raise DataError(
            f"there is no {target}: download ILSVRC2012 from image-net.org, unpack it so that a folder has "
            "train/<wnid>/*.JPEG and val/*.JPEG, and name that folder with --from"
        )
    elif any((target / "val").glob("*.JPEG")):
        _arrange_split(target, target, "val")
    return "\n".join(_count_split(target, split) for split in IMAGENET_SIZES)


def _arrange_split(source: Path, target: Path, split: str) -> None:
    """Link every class folder of a split; sort a flat validation folder into class folders first."""
    folder = source / split
    if not folder.is_dir():
        raise DataError(f"there is no {folder}: --from takes the folder that has train and val")
    flat = sorted(folder.glob("*.JPEG"))
    (target / split).mkdir(parents=True, exist_ok=True)
    if not flat:
        for wnid in sorted(p for p in folder.iterdir() if p.is_dir()):
            _link(wnid, target / split / wnid.name)
        return
    classes = _read_mapping(source, folder)
    for image in flat:
        if image.name not in classes:
            raise DataError(f"the validation mapping of {source} does not name {image.name}")
        place = target / split / classes[image.name] / image.name
        place.parent.mkdir(exist_ok=True)
        if image.parent == target / split:
            image.rename(place)
        else:
            _link(image, place)


def _read_mapping(source: Path, folder: Path) -> dict[str, str]:
    """Class of every validation image, from a file of lines ``NAME WNID``, separated by spaces or a comma."""
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
        return {image.name: words[0] for image, words in zip(images, lines, strict=True)}
    pairs = [words[:2] for words in lines if len(words) > 1 and words[1].startswith("n")]
    return {name if name.endswith(".JPEG") else f"{name}.JPEG": wnid for name, wnid in pairs}


def _link(source: Path, place: Path) -> None:
    if not place.exists():
        place.symlink_to(source.resolve())


def _count_split(target: Path, split: str) -> str:
    folder = target / split
    if not folder.is_dir():
        raise DataError(f"there is no {folder}")
    counts = {p.name: sum(1 for f in p.iterdir() if f.suffix == ".JPEG") for p in folder.iterdir() if p.is_dir()}
    total, expected = sum(counts.values()), IMAGENET_SIZES[split]
    empty = sorted(name for name, n in counts.items() if not n)
    if len(counts) != IMAGENET_CLASSES or empty:
        raise DataError(
            f"{folder} has {len(counts)} class folders, {len(empty)} of them empty; ImageNet has {IMAGENET_CLASSES}"
        )
    missing = f", {expected - total} missing" if total < expected else ""
    return f"{folder}: {total} images in {len(counts)} classes{missing}"


DATASETS: dict[str, Callable[[Path, Path | None], str]] = {
    "fashion-mnist": prepare_fashion_mnist,
    "digits": prepare_digits,
    "imagenet": prepare_imagenet,
}


def main(arguments: list[str] | None = None) -> None:
    """Prepare the dataset and say what is there."""
    parser = argparse.ArgumentParser(description="Put a dataset where the configs look for it.", allow_abbrev=False)
    parser.add_argument("name", choices=DATASETS)
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of all datasets (default: data)")
    parser.add_argument("--from", type=Path, dest="source", metavar="PATH", help="folder of the downloaded files")
    args = parser.parse_args(arguments)
    print(DATASETS[args.name](args.root, args.source))


if __name__ == "__main__":
    sys.exit(cli.run(main))
