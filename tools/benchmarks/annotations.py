"""What reading a large annotation file costs: python tools/benchmarks/annotations.py FOLDER.

    python tools/benchmarks/annotations.py /tmp/annotations

A file of COCO's size is written first, unless it is there: 118,000 images and 860,000 objects with polygons in 435 MB,
and empty files for the images. Each row of the table is a process of its own: mmdet's dataset, pycocotools, our dataset
without an index, the first time with one, and later times. Seconds and memory are those of the dataset alone, without
the start of Python and the imports. The peak and the rest count what the process has for itself and the pages of the
index that it has used, which processes share.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssm_core.writing import explained
from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli
from ssm_train.runtime.files import make_folder, write_atomically

IMAGES, OBJECTS, CATEGORIES = 118_000, 860_000, 80
_AT_ONCE = 10_000  # objects that are drawn together
WAYS = ("mmdet", "pycocotools", "no-index", "first", "second", "used")
STEPS = [{"type": "mmdet.LoadAnnotations", "with_bbox": True, "with_mask": True}]


def shapes(draw: np.random.Generator, boxes: np.ndarray) -> Iterator[list[float]]:
    """A polygon in each box, with as many corners as people draw for such regions, to hundredths of a pixel.

    Args:
        draw: draws it.
        boxes: left, top, width and height [N, 4].
    """
    corners = draw.lognormal(2.83, 0.55, len(boxes)).clip(4, 200).astype(int)
    owner = np.repeat(np.arange(len(boxes)), corners)
    angles = draw.uniform(0, 2 * np.pi, len(owner))
    angles = angles[np.lexsort((angles, owner))]
    radii = draw.uniform(0.6, 1.0, len(owner))
    spread = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    points = np.round(boxes[owner, :2] + boxes[owner, 2:] / 2 * (1 + spread), 2).tolist()
    end = 0
    for count in corners.tolist():
        start, end = end, end + count
        yield [value for point in points[start:end] for value in point]


def annotations(draw: np.random.Generator, first: int, images: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Objects as COCO has them: one of ten in two parts, one of a hundred a crowd in run lengths.

    Args:
        draw: draws them.
        first: id of the first.
        images: the image of each.
    """
    count = len(images)
    sides = np.array([[image["width"], image["height"]] for image in images])
    extent = np.minimum(np.exp(draw.normal(4.0, 0.9, (count, 2))).clip(6), sides - 1)
    boxes = np.round(np.hstack([draw.uniform(0, 1, (count, 2)) * (sides - extent), extent]), 2)
    halves = boxes.copy()
    halves[:, 2] /= 2
    wholes, left = shapes(draw, boxes), shapes(draw, halves)
    right = shapes(draw, halves + np.stack([halves[:, 2], *np.zeros((3, count))], axis=1))
    kinds, categories = draw.random(count).tolist(), draw.integers(1, CATEGORIES + 1, count).tolist()
    lengths = draw.integers(1, 40, (count, 120)).tolist()
    for number, (image, box, kind) in enumerate(zip(images, boxes.tolist(), kinds, strict=True)):
        mask: Any = [next(wholes)]
        parts = [next(left), next(right)]
        if kind < 0.01:
            pixels = image["height"] * image["width"]
            mask = {
                "counts": [*lengths[number], pixels - sum(lengths[number])],
                "size": [image["height"], image["width"]],
            }
        elif kind < 0.11:
            mask = parts
        yield {
            "segmentation": mask,
            "area": round(0.6 * box[2] * box[3], 4),
            "iscrowd": int(kind < 0.01),
            "image_id": image["id"],
            "bbox": box,
            "category_id": categories[number],
            "id": first + number,
        }


def pieces(images: int, objects: int, seed: int) -> Iterator[str]:
    """The text of a file with images and objects, in pieces.

    Args:
        images: their number.
        objects: their number. Those of an image are not together, as in COCO's own files.
        seed: of the drawing.
    """
    draw = np.random.default_rng(seed)
    entries = []
    for number in range(images):
        wide, high = ((640, 480), (480, 640), (640, 427), (500, 375))[draw.integers(4)]
        name = f"{number + 1:012}.jpg"
        entry = {"license": int(draw.integers(1, 9)), "file_name": name, "height": high, "width": wide}
        entry |= {"coco_url": f"http://images.example.org/train/{name}", "date_captured": "2013-11-14 11:18:45"}
        entries.append({**entry, "flickr_url": f"http://photos.example.org/{number:010}_z.jpg", "id": number + 1})
    categories = [
        {"supercategory": f"group {n // 8}", "id": n + 1, "name": f"class {n + 1}"} for n in range(CATEGORIES)
    ]
    yield '{"info": {}, "images": ' + json.dumps(entries) + ', "annotations": ['
    places = draw.integers(0, images, objects).tolist()
    for start in range(0, objects, _AT_ONCE):
        chosen = [entries[place] for place in places[start : start + _AT_ONCE]]
        texts = [json.dumps(item) for item in annotations(draw, start + 1, chosen)]
        yield (", " if start else "") + ", ".join(texts)
    yield '], "categories": ' + json.dumps(categories) + "}"


def write_file(path: Path, images: int, objects: int, seed: int = 0) -> None:
    """Write an annotation file; the same arguments give the same bytes."""
    write_atomically(path, lambda file: [file.write(piece.encode()) for piece in pieces(images, objects, seed)])


def memory(key: str) -> float:
    """A figure of this process in GiB: ``VmRSS`` or ``VmHWM``, its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 2**20


def measure(way: str, path: Path, folder: Path) -> dict[str, float]:
    """Make a dataset in this process. ``used`` also loads all images of it, without reading their files."""
    from mmdet.datasets import CocoDataset
    from pycocotools.coco import COCO

    from ssm_train.tasks.detection import CocoInstances

    classes = [f"class {number + 1}" for number in range(CATEGORIES)]
    options = {
        "ann_file": str(path), "data_prefix": {"img": str(folder)}, "metainfo": {"classes": classes}, "pipeline": STEPS,
        "filter_cfg": {"filter_empty_gt": True, "min_size": 32},
    }  # fmt: skip
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, start = memory("VmRSS"), time.perf_counter()
    if way == "pycocotools":
        made = COCO(str(path))
    elif way == "mmdet":
        made = CocoDataset(**options)
    else:
        made = CocoInstances(**options, index_from=None if way == "no-index" else 0)
    seconds = time.perf_counter() - start
    for index in range(len(made)) if way == "used" else ():
        made.get_data_info(index)
    if way == "used":
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": memory("VmHWM") - before, "stays": memory("VmRSS") - before}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, help="where the file is written, 1 GB; it stays there")
    parser.add_argument("--images", type=kinds.whole_number(), default=IMAGES)
    parser.add_argument("--objects", type=kinds.whole_number(), default=OBJECTS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what to measure, in this order")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)  # a process of the table
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Write the file, measure every way in a process of its own, and print a table."""
    options = parse(argv)
    path, folder = options.folder / f"annotations_{options.images}_{options.objects}.json", options.folder / "images"
    if options.one:
        print(json.dumps(measure(options.one, path, folder)))
        return
    # Imported here, so that write_file can be imported by programs that are not beside this one.
    from measured.programs import run_program

    make_folder(folder)
    if not path.exists():
        write_file(path, options.images, options.objects)
    with explained(folder):
        for number in range(options.images):
            (folder / f"{number + 1:012}.jpg").touch()
    print(f"{path.stat().st_size / 1e6:.0f} MB\n{'':12} {'s':>7} {'peak GiB':>9} {'stays GiB':>10}")
    sizes = ["--images", str(options.images), "--objects", str(options.objects)]
    for way in options.ways:
        if way == "first":
            for index in options.folder.glob(".*.index"):
                index.unlink()
        command = [sys.executable, __file__, str(options.folder), *sizes, "--one", way]
        printed = run_program(command, f"measuring {way}", stdout=subprocess.PIPE)
        row = json.loads(printed.splitlines()[-1])
        print(f"{way:12} {row['seconds']:7.2f} {row['peak']:9.2f} {row['stays']:10.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(cli.run(main))
