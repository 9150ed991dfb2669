"""Tests of COCO annotation files as other programs write them: what is understood, left out and said."""

import copy
import json
import logging
import math

import blobs
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from PIL import Image
from pycocotools import mask as codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.images import size_in_file
from ssm_train.tasks.detection import CocoInstanceMetric, CocoInstances
from ssm_train.tasks.detection.annotations import read_annotations
from ssm_train.tasks.detection.masks import are_run_lengths, read_mask

NAN = math.nan


class Lines(logging.Handler):
    """Keeps the lines that are logged."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.fixture
def lines():
    """Return the list that all logged lines go into."""
    logger, handler = MMLogger.get_current_instance(), Lines()
    logger.addHandler(handler)
    yield handler.texts
    logger.removeHandler(handler)


@pytest.fixture
def coco(tmp_path):
    """Write a data set. Return a function that changes its training annotations."""
    content = blobs.write(tmp_path)
    path = tmp_path / "train.json"

    def change(**keys):
        path.write_text(json.dumps({**content, **keys}))
        return path

    change.content, change.path, change.root = content, path, tmp_path
    return change


def changed(entry, change):
    """Return a copy of an entry with other fields, of which ``...`` are dropped."""
    return {key: value for key, value in {**entry, **change}.items() if value is not ...}


# --- Objects


FAULTS = {
    "other image": (dict(image_id=99), "an unknown image"),
    "list for an image": (dict(image_id=[10]), "an unknown image"),
    "true for an image": (dict(image_id=True), "an unknown image"),
    "no image": (dict(image_id=NAN), "no image_id"),
    "other category": (dict(category_id=0), "an unknown category"),
    "no category": (dict(category_id=...), "no category_id"),
    "no box and no mask": (dict(bbox=None, segmentation=[]), "no bbox"),
    "three numbers": (dict(bbox=[1, 2, 3], segmentation=...), "a box that is not four finite numbers"),
    "NaN": (dict(bbox=[1, 2, NAN, 4], segmentation=...), "a box that is not four finite numbers"),
    "box of 10^999": (dict(bbox=[0, 0, 10**999, 9], segmentation=...), "a box that is not four finite numbers"),
    "flat": (dict(bbox=[1, 2, 0, 4], segmentation=...), "a box without area in the image"),
    "turned": (dict(bbox=[5, 5, -3, -3], segmentation=...), "a box without area in the image"),
    "outside": (dict(bbox=[70, 5, 10, 10], segmentation=...), "a box without area in the image"),
    "fractions": (dict(bbox=[0.1, 0.1, 0.5, 0.5], segmentation=...), "a box of less than a pixel"),
    "far out": (dict(bbox=[0, 0, 1e30, 9], segmentation=...), "a box that reaches far out of the image"),
    "crowd of two": (dict(iscrowd=2), "another iscrowd or ignore than 0 and 1"),
    "word for a crowd": (dict(ignore="perhaps"), "another iscrowd or ignore than 0 and 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_object_that_cannot_be_understood_is_left_out(coco, fault):
    change, words = FAULTS[fault]
    first, *others = coco.content["annotations"]
    path = coco(annotations=[changed(first, change), *others])
    assert read_annotations(path).annotations == others
    with pytest.raises(DataError, match=rf"annotation 1 of .*train.json has {words}.*bad_annotations='skip'"):
        read_annotations(path, "raise")


BAD_MASKS = {
    "no mask": ...,
    "null": None,
    "empty mask": [],
    "empty part": [[]],
    "empty dictionary": {},
    "two points": [[1, 2, 3, 4]],
    "odd polygon": [[1, 2, 3, 4, 5, 6, 7]],
    "polygon with null": [[1, 2, 30, 4, 30, 30, 7, None]],
    "line": [[1, 2, 9, 10, 5, 6]],
    "thin line": [[1, 2, 60, 61, 60.001, 61]],
    "outside": [[80, 2, 90, 2, 90, 30, 80, 30]],
    "word": "polygon",
    "number": 7,
    "other size": dict(size=[32, 64], counts="abc"),
    "short run lengths": dict(size=[64, 64], counts=[10, 20]),
    "no pixel": dict(size=[64, 64], counts=[4096]),
    "long compressed run lengths": dict(size=[64, 64], counts="PPPP0"),
    "size of a cut-off box": dict(size=64, counts=[96, 4000]),
    "no counts": dict(size=[64, 64], counts=None),
    "bytes that are none": dict(size=[64, 64], counts="b'"),
    "polygon of 10^9": [[0, 0, 1e9, 0, 1e9, 1e9, 0, 1e9]],
    "polygon of 10^999": [[0, 0, 10**999, 0, 9, 9]],
    "endless polygon": [[0, 0, 64, 64] * 1000],
    "NaN in a polygon": [[0, 0, NAN, 0, 9, 9]],
    "deep text": "[" * 100_000,
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_an_object_without_a_sound_mask_is_a_box(coco, name):
    first, *others = coco.content["annotations"]
    path = coco(annotations=[changed(first, dict(segmentation=BAD_MASKS[name])), *others])
    bare = changed(first, dict(segmentation=...))
    assert read_annotations(path).annotations == [bare, *others]
    assert read_annotations(path, masks=True).annotations == others
    with pytest.raises(DataError, match=r"annotation 1 .* a mask that is missing, malformed or of another size"):
        read_annotations(path, "raise", masks=True)


SQUARE = [10, 12, 30, 12, 30, 42, 10, 42]
POINTS = [[10, 12], [30, 12], [30, 42], [10, 42]]
GOOD_MASKS = {
    "polygon": [SQUARE],
    "flat": SQUARE,
    "closed": [[*SQUARE, 10, 12]],
    "points": POINTS,
    "list of points": [POINTS],
    "texts": [[str(value) for value in SQUARE]],
    "JSON in a text": json.dumps([SQUARE]),
    "JSON in a part": [json.dumps(SQUARE)],
    "Python's text": str([SQUARE]).replace("[", "[ "),
    "box": [10, 12, 20, 30],
    "corners": [[10, 12, 30, 42]],
    "stray point": [SQUARE, [3, 4]],
    "stray line": [[0, 0, 9, 9], SQUARE, []],
    "stray null": [None, SQUARE],
    "stray polygon with null": [SQUARE, [1, 2, 30, 4, 30, None]],
    "stray line of three points": [SQUARE, [1, 2, 9, 10, 5, 6]],
}


def drawn(square):
    mask = np.zeros((64, 64), np.uint8)
    left, top, right, bottom = square
    mask[top:bottom, left:right] = 1
    return mask


def run_length_forms():
    """Return forms of one mask in run lengths."""
    mask = drawn((10, 12, 30, 42))
    code = codec.encode(np.asfortranarray(mask))
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1]))
    plain = np.diff(ends, prepend=0).tolist()
    size = [64, 64]
    return {
        "compressed": dict(size=size, counts=code["counts"].decode()),
        "as Python prints bytes": dict(size=size, counts=str(code["counts"])),
        "in a list": [dict(size=size, counts=code["counts"].decode())],
        "fractions of zero": dict(size=[64.0, 64.0], counts=[float(n) for n in plain]),
        "texts": dict(size=["64", "64"], counts=[str(n) for n in plain]),
        "no size": dict(counts=plain),
        "Python's text": str(dict(size=size, counts=plain)),
    }


@pytest.mark.parametrize(("name", "written"), [*GOOD_MASKS.items(), *run_length_forms().items()])
def test_a_mask_in_another_form_is_understood(coco, lines, name, written):
    first, *others = coco.content["annotations"]
    bare = dict(segmentation=written, bbox=[10, 12, 20, 30], area=600)
    content = read_annotations(coco(annotations=[{**first, **bare}, *others]), masks=True)
    truth = content.as_coco({category["id"]: category["id"] for category in content.categories})
    assert np.array_equal(truth.annToMask(content.annotations[0]), drawn((10, 12, 30, 42)))
    assert content.annotations[1:] == others
    said = [line for line in lines if "1 masks with a part that is no polygon and is dropped (first: 1)" in line]
    assert len(said) == ("stray" in name)


def add_up(counts, pixels):
    """Say whether compressed run lengths add up to a number of pixels, read as COCO's maskApi.c reads them."""
    lengths, value, shift = [], 0, 0
    for byte in counts.encode():
        if not 0 <= byte - 48 < 64:
            return False
        value |= (byte - 48 & 31) << shift
        shift += 5
        if not byte - 48 & 32:
            value -= (1 << shift) if byte - 48 & 16 else 0
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return not shift and bool(lengths) and min(lengths) >= 0 and sum(lengths) == pixels


def test_run_lengths_are_taken_if_they_add_up():
    """Those that are taken are decoded to a mask of the image's size, which has the same run lengths."""
    draw, taken = np.random.RandomState(0), 0
    for number in range(600):
        height, width = draw.randint(1, 60, 2).tolist()
        mask = np.repeat(draw.rand(height, width) < draw.rand(), draw.randint(1, 9), axis=1)[:, :width]
        counts = list(blobs.encode(mask)["counts"])
        for _ in range(number % 3):
            place = draw.randint(len(counts))
            counts[place : place + draw.randint(2)] = draw.choice(list("0123NOPQ_`no¤"), draw.randint(2))
        counts = "".join(counts)
        code = {"size": [height, width], "counts": counts}
        assert are_run_lengths(code, height, width) == add_up(counts, height * width), (counts, height, width)
        if are_run_lengths(code, height, width):
            taken += 1
            decoded = codec.decode(code)
            assert number % 3 or np.array_equal(decoded, mask)
            assert codec.area(code) == decoded.sum()
            assert (read_mask(code, None, height, width).mask == code) == bool(decoded.any())
    assert taken > 200


def test_a_mask_has_to_add_up_without_compression():
    assert read_mask({"size": [2, 3], "counts": [1, 2, 3]}, None, 2, 3).mask == {"size": [2, 3], "counts": [1, 2, 3]}
    for counts in ([], [7], [-1, 7], [6], [True, 5], [1.5, 4.5], [1 << 40, 6], 6, None):
        assert read_mask({"size": [2, 3], "counts": counts}, None, 2, 3).mask is None, counts


def test_polygons_of_regions_are_taken():
    """Also those that a tool drew with a point a pixel, or somewhat beyond the border."""
    fine = [[v for t in np.linspace(0, 2 * np.pi, 2000) for v in (32 + 30 * np.cos(t), 32 + 30 * np.sin(t))]]
    comb = [[v for x in range(64) for v in ((x, 0, x, 64) if x % 2 else (x, 64, x, 0))] + [64, 65, -1, 65]]
    for polygon in (fine, comb, [[-20, -20, 90, -20, 90, 90.5]]):
        assert read_mask(polygon, None, 64, 64) == (polygon, 0)


def test_faults_are_counted_by_kind(coco, lines):
    first, second, third, *others = coco.content["annotations"]
    path = coco(annotations=["x", {**first, "image_id": 7}, {**second, "image_id": 8}, third, third, *others])
    assert len(read_annotations(path).annotations) == len(others) + 1
    assert len(lines) == 1
    assert "4 of 14 annotations" in lines[0]
    assert "1 with no fields (first: at place 0)" in lines[0]
    assert "2 with an unknown image (first: 1)" in lines[0]
    assert "1 with a place further up (first: 3)" in lines[0]


def test_a_file_of_which_most_is_lost(coco):
    some = [{**a, "image_id": 99} if number < 7 else a for number, a in enumerate(coco.content["annotations"])]
    words = r"7 of 12 annotations of .*train.json cannot be used: 7 with an unknown image \(first: 1\); that is more"
    with pytest.raises(DataError, match=words):
        read_annotations(coco(annotations=some))
    some[0] = coco.content["annotations"][0]
    assert len(read_annotations(coco(annotations=some)).annotations) == 6


def test_boxes_where_the_config_wants_masks(coco):
    boxes = [changed(a, dict(segmentation=[])) for a in coco.content["annotations"]]
    with pytest.raises(DataError, match=r"^the config wants masks, and none of the 12 annotations of .*train.json has"):
        read_annotations(coco(annotations=boxes), masks=True)
    assert len(read_annotations(coco.path).annotations) == 12
    content = {key: value for key, value in coco.content.items() if key != "annotations"}
    coco.path.write_text(json.dumps(content))
    assert read_annotations(coco.path, masks=True).annotations == []


def test_an_object_to_ignore_is_a_crowd(coco):
    first, *others = coco.content["annotations"]
    annotation = read_annotations(coco(annotations=[{**first, "ignore": "1"}, *others])).annotations[0]
    assert annotation == {**first, "iscrowd": 1}


# --- Images


def images_of(coco, entries, folder=True):
    content = read_annotations(coco(images=entries), folder=str(coco.root / "train") if folder else None)
    return content, {image["id"]: (image["file_name"], image["height"], image["width"]) for image in content.images}


SIZES = [10**9, 0, -4, 2.5, "", "wide", None, ..., NAN, 10**999, [64], True]


@pytest.mark.parametrize("size", SIZES, ids=[str(size)[:8] for size in SIZES])
def test_a_size_that_is_missing_is_read_from_the_image(coco, lines, size):
    first, *others = coco.content["images"]
    content, found = images_of(coco, [changed(first, dict(width=size)), *others])
    assert found[10] == ("0.jpg", 64, 64)
    assert len(content.annotations) == 12
    assert "1 sizes of images read from their files (first: 0.jpg)" in lines[0]
    content, found = images_of(coco, [changed(first, dict(width=size)), *others], folder=False)
    assert set(found) == {11, 12, 13}
    assert len(content.annotations) == 9
    assert "1 of 4 images" in lines[1]
    assert "a size that is missing or impossible (first: 0.jpg)" in lines[1]
    assert "3 of 12 annotations" in lines[2]


def test_sizes_are_those_of_upright_images(tmp_path):
    exif = Image.Exif()
    for orientation in (1, 6):
        exif[274] = orientation
        Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
        assert size_in_file(tmp_path / "a.jpg") == ((20, 30) if orientation == 1 else (30, 20))
    np.save(tmp_path / "a.npy", np.zeros((20, 30, 5), np.int16))
    assert size_in_file(tmp_path / "a.npy") == (20, 30)


NAMES = [
    "0.JPG", ".\\0.jpg", "./0.jpg", "C:\\Users\\me\\set\\0.jpg", "/home/me/set/0.jpg", "../images/0.jpg",
    "images/0.jpg", "..\\..\\0.jpg",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_another_computer(coco, name):
    first, *others = coco.content["images"]
    content, found = images_of(coco, [{**first, "file_name": name}, *others])
    assert found[10][0] == "0.jpg"
    assert len(content.annotations) == 12


def test_names_in_sub_folders_and_with_accents(coco):
    for name in ("Größe.jpg", "a b.jpg"):
        place = coco.root / "train" / "Cam 1" / name
        place.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64)).save(place)
    first, second, *others = coco.content["images"]
    decomposed = "cam 1\\Gro\u0308\u00dfe.JPG"
    _, found = images_of(coco, [{**first, "file_name": decomposed}, {**second, "file_name": "Cam 1/a b.jpg"}, *others])
    assert [found[number][0] for number in (10, 11)] == ["Cam 1/Größe.jpg", "Cam 1/a b.jpg"]


def test_names_that_lead_outside_are_left_out(coco, lines):
    (coco.root / "secret.jpg").write_bytes(b"x")
    first, second, *others = coco.content["images"]
    outside = [{**first, "file_name": "../secret.jpg"}, {**second, "file_name": "/etc/hostname"}]
    content, found = images_of(coco, [*outside, *others])
    assert set(found) == {12, 13}
    assert len(content.annotations) == 6
    assert "2 of 4 images" in lines[0]
    assert "a name outside of the folder of the images (first: ../secret.jpg)" in lines[0]


def test_two_files_that_could_be_meant(coco):
    """Two cameras have an image of the same name, and the folder has one of them."""
    first, second, *others = coco.content["images"]
    cameras = [{**first, "file_name": "C:\\left\\0.jpg"}, {**second, "file_name": "C:\\right\\0.jpg"}]
    content, found = images_of(coco, [*cameras, *others])
    assert set(found) == {12, 13}
    assert len(content.annotations) == 6


def test_an_image_that_is_listed_again_is_one(coco, lines):
    images, annotations = coco.content["images"], coco.content["annotations"]
    assert images_of(coco, [*images, images[0]])[0].annotations == annotations
    # A row for each object, as from a table: every row is an image with an id of its own.
    names = {image["id"]: image for image in images}
    rows = [{**names[a["image_id"]], "id": 100 + number} for number, a in enumerate(annotations)]
    own = [{**a, "image_id": 100 + number} for number, a in enumerate(annotations)]
    coco.path.write_text(json.dumps({**coco.content, "images": rows, "annotations": [*own, *own]}))
    content = read_annotations(coco.path, folder=str(coco.root / "train"))
    assert [image["file_name"] for image in content.images] == [image["file_name"] for image in images]
    first = {image["file_name"]: image["id"] for image in content.images}
    assert content.annotations == [{**a, "image_id": first[names[a["image_id"]]["file_name"]]} for a in annotations]
    assert "12 of 24 annotations" in lines[1]


def test_an_id_of_two_images_is_nobodys(coco, lines):
    first, second, *others = coco.content["images"]
    content, found = images_of(coco, [first, {**second, "id": "10.0"}, *others])
    assert set(found) == {12, 13}
    assert len(content.annotations) == 6
    assert "2 of 4 images" in lines[0]
    assert "2 with the id of another image (first: 0.jpg)" in lines[0]


def test_images_without_ids(coco):
    bare = [changed(image, dict(id=None)) for image in coco.content["images"]]
    names = {image["id"]: image["file_name"] for image in coco.content["images"]}
    named = [{**a, "image_id": names[a["image_id"]]} for a in coco.content["annotations"]]
    coco.path.write_text(json.dumps({**coco.content, "images": bare, "annotations": named}))
    content = read_annotations(coco.path)
    assert [image["id"] for image in content.images] == list(names.values())
    assert content.annotations == named
    coco.path.write_text(json.dumps({**coco.content, "images": bare}))
    with pytest.raises(DataError, match=r"4 of 4 images .* cannot be used: 4 with no id \(first: 0.jpg\)"):
        read_annotations(coco.path)


# --- Categories


def test_two_categories_of_one_id_are_nobodys(coco):
    disc, box = coco.content["categories"]
    third = {"id": 9, "name": "cone"}
    content = read_annotations(coco(categories=[disc, box, {**third, "id": 4}, third, third]))
    assert content.classes == ["disc", "cone"]
    assert content.annotations == [a for a in coco.content["annotations"] if a["category_id"] == 1]
    with pytest.raises(DataError, match=r"2 of 3 categories .* 2 with the id of another category \(first: disc\)"):
        read_annotations(coco(categories=[disc, box, {**third, "id": 1}]))


def test_categories_of_one_name_are_one_class(coco, lines):
    disc, box = coco.content["categories"]
    twice = [{"id": 0, "name": "box"}, disc, {"id": 8, "name": "disc "}, box]
    some = [
        {**a, "category_id": 8} if a["category_id"] == 1 and a["id"] % 2 else a for a in coco.content["annotations"]
    ]
    coco.path.write_text(json.dumps({**coco.content, "categories": twice, "annotations": some}))
    content = read_annotations(coco.path)
    assert sorted(content.classes) == ["box", "disc"]
    known = dict(zip(content.classes, content.category_ids(content.classes), strict=True))
    names = {1: "disc", 8: "disc", 4: "box"}
    assert [a["category_id"] for a in content.annotations] == [known[names[a["category_id"]]] for a in some]
    assert known["box"] == 4
    assert "2 categories of a name that another has, which are one class (first: disc)" in lines[0]


def test_roboflows_super_category_is_no_class(coco):
    above = {"id": 0, "name": "things", "supercategory": "none"}
    below = [{**category, "supercategory": "things"} for category in coco.content["categories"]]
    content = read_annotations(coco(categories=[above, *below]))
    assert content.classes == ["disc", "box"]
    assert content.category_ids(["things"]) == [0]
    first, *others = coco.content["annotations"]
    coco.path.write_text(
        json.dumps(
            {**coco.content, "categories": [above, *below], "annotations": [{**first, "category_id": 0}, *others]}
        )
    )
    assert read_annotations(coco.path).classes == ["things", "disc", "box"]


def test_categories_without_names_or_ids(coco):
    disc, box = coco.content["categories"]
    bare = [changed(disc, dict(name=None)), {"name": "cone"}, {"id": None}, "x", box]
    content = read_annotations(coco(categories=bare))
    assert content.classes == ["1", "cone", "box"]
    assert content.annotations == coco.content["annotations"]


# --- Files


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no annotation file .*prepare-data"),
        ("", "cannot read the annotation file"),
        ('{"images": [', "cannot read the annotation file"),
        ("[" * 100_000, "cannot read the annotation file"),
        ("[]", "has no list 'images'"),
        ('{"images": {}, "annotations": [], "categories": []}', "has no list 'images'"),
        ('{"images": [], "annotations": [], "categories": []}', "is empty: it has no images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": [1]}', "1 of 1 images .* no file_name"),
        ('{"images": [{"id": 1, "file_name": "a", "height": 1, "width": 1}], "annotations": []}', "'categories'"),
    ],
    ids=["missing", "empty", "cut off", "deep", "list", "dictionary", "no images", "no names", "no categories"],
)
def test_not_an_annotation_file(tmp_path, text, words):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_annotations(path)


def test_wrong_switch(coco):
    with pytest.raises(ConfigError, match="bad_annotations is 'skip' or 'raise'"):
        read_annotations(coco.path, "ignore")


# --- Drawn damages

CLASSES = ("bolt", "nut", "washer")
HEIGHT, WIDTH = 48, 64


def corners(box):
    left, top, wide, high = box
    return [left, top, left + wide, top, left + wide, top + high, left, top + high]


def sound_file(draw, folder):
    """Write images. Return a sound file with rectangles for objects."""
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
    for number in range(4):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"image{number}.png")
        image = {"id": number + 1, "file_name": f"image{number}.png", "width": WIDTH, "height": HEIGHT}
        content["images"].append(image)
        for _ in range(5):
            wide, high = draw.randint(4, 20, 2).tolist()
            box = [draw.randint(WIDTH - wide), draw.randint(HEIGHT - high), wide, high]
            annotation = {"id": len(content["annotations"]) + 1, "image_id": number + 1, "bbox": box}
            annotation |= {"category_id": draw.randint(3) + 1, "area": wide * high, "iscrowd": int(draw.rand() < 0.1)}
            content["annotations"].append({**annotation, "segmentation": [corners(box)]})
    return json.loads(json.dumps(content, default=int))


def pick(draw, values):
    return values[draw.randint(len(values))]


NOTHING = (None, NAN, "", "nan", ...)


def harmless(draw, annotation, names):
    """Write a field of an object in another form, or drop one that follows from the others."""
    box, number, category = annotation["bbox"], annotation["image_id"], annotation["category_id"]
    polygon = corners(box)
    pairs = [polygon[place : place + 2] for place in range(0, 8, 2)]
    texts = [str(value) for value in polygon]
    stray = ([], None, [1, 2], [3, 4, 5, 6, 7], "x", [*polygon[:7], None], [1, 1, 5, 5, 3, 3], NAN)
    forms = {
        "id": (0, 1, "7", 2.0, *NOTHING),
        "area": (0, -1, "", "12.5 px", [], str(annotation["area"]), *NOTHING),
        "iscrowd": (annotation["iscrowd"], str(annotation["iscrowd"]), bool(annotation["iscrowd"])),
        "ignore": (0, "0", False, *NOTHING),
        "image_id": (str(number), float(number), f"{number}.0", f"image{number - 1}.png"),
        "category_id": (str(category), float(category), names[category]),
        "bbox": ([str(v) for v in box], [float(v) for v in box], str(box), [*box[:3], None], [], 0, *NOTHING),
        "segmentation": (polygon, pairs, [pairs], [texts], str([polygon]), [polygon, pick(draw, stray)]),
        "attributes": ({"occluded": False}, None),
    }  # fmt: skip
    field = pick(draw, list(forms))
    return {field: pick(draw, forms[field])}


def fatal(draw):
    """Damage an object so that it cannot be understood."""
    changes = [dict(image_id=value) for value in (99, *NOTHING)] + [dict(category_id=value) for value in (77, *NOTHING)]
    changes += [dict(bbox=value, segmentation=pick(draw, (*NOTHING, []))) for value in ([1, 2, 3], 0, *NOTHING)]
    changes += [dict(bbox=[200, 3, 5, 5], segmentation=[]), dict(iscrowd=7), dict(iscrowd="some")]
    return pick(draw, changes)


def renamed_images(draw, content):
    """Write the ids, names and sizes of images in other forms, and list one again."""
    write = pick(draw, (int, float, str, lambda n: f"{n}.0"))
    for image in content["images"]:
        image["id"] = write(image["id"])
        image["file_name"] = pick(draw, ("{}", "./{}", "D:\\set\\{}", "/data/{}", "set\\{}")).format(image["file_name"])
        if draw.rand() < 0.3:
            image["file_name"] = image["file_name"].replace(".png", ".PNG")
        key = pick(draw, ("width", "height"))
        image[key] = pick(draw, (image[key], str(image[key]), float(image[key]), 0, -1, *NOTHING))
    if draw.rand() < 0.5:
        content["images"].append(copy.deepcopy(pick(draw, content["images"])))
    draw.shuffle(content["images"])


def renumbered_categories(draw, content):
    """Write the categories with gaps, from 0, as texts or fractions, in another order, with a super-category."""
    first = pick(draw, ([1, 2, 3], [0, 1, 2], [40, 7, 90]))
    write = pick(draw, (int, float, str))
    numbers = {category["id"]: number for category, number in zip(content["categories"], first, strict=True)}
    for category in content["categories"]:
        category["id"] = write(numbers[category["id"]])
    for annotation in content["annotations"]:
        annotation["category_id"] = numbers[annotation["category_id"]]
    if 0 not in first and draw.rand() < 0.5:
        for category in content["categories"]:
            category["supercategory"] = "parts"
        content["categories"].append({"id": write(0), "name": "parts", "supercategory": "none"})
    draw.shuffle(content["categories"])
    return {numbers[number + 1]: name for number, name in enumerate(CLASSES)}


def damaged(draw, content):
    """Damage a sound file. Return it, and the true objects as (image, class, box, crowd)."""
    names = renumbered_categories(draw, content)
    expected, annotations = [], []
    for place, annotation in enumerate(content["annotations"]):
        true = f"image{annotation['image_id'] - 1}.png", names[annotation["category_id"]], tuple(annotation["bbox"])
        change = {}
        for _ in range(draw.randint(4)):
            change |= harmless(draw, annotation, names)
        if place % 5 == 0 and draw.rand() < 0.7:
            change |= fatal(draw)
        else:
            expected.append((*true, annotation["iscrowd"]))
        annotations.append({key: value for key, value in {**annotation, **change}.items() if value is not ...})
    content["annotations"] = annotations
    renamed_images(draw, content)
    content["images"] = [{k: v for k, v in image.items() if v is not ...} for image in content["images"]]
    if draw.rand() < 0.3:
        annotations.insert(draw.randint(len(annotations)), pick(draw, (None, 7, [], "x")))
    return content, expected


def as_sound_file(expected, path):
    """Write the true objects as a sound file for pycocotools."""
    names = sorted({image for image, *_ in expected} | {f"image{number}.png" for number in range(4)})
    content = {"images": [], "annotations": [], "categories": []}
    content["images"] = [dict(id=n + 1, file_name=name, width=WIDTH, height=HEIGHT) for n, name in enumerate(names)]
    content["categories"] = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
    for number, (image, name, box, crowd) in enumerate(expected, start=1):
        annotation = dict(id=number, image_id=names.index(image) + 1, category_id=CLASSES.index(name) + 1)
        annotation |= dict(bbox=list(box), area=box[2] * box[3], iscrowd=crowd, segmentation=[corners(box)])
        content["annotations"].append(annotation)
    path.write_text(json.dumps(content))
    return COCO(str(path))


def predictions_of(draw, expected, image, shift):
    """Return predictions of an image: its objects, moved by up to ``shift`` pixels, some of another class."""
    own = [item for item in expected if item[0] == image and (shift or not item[3])]
    boxes = np.array([box for _, _, box, _ in own], dtype=float).reshape(-1, 4)
    boxes[:, :2] += draw.randint(0, shift + 1, (len(own), 2))
    labels = [CLASSES.index(name) for _, name, _, _ in own]
    return (
        boxes,
        draw.permutation(len(own)) / 10 + 0.1,
        [draw.randint(3) if shift and draw.rand() < 0.2 else n for n in labels],
    )


def measured(metric, data, made):
    """Return the metric of predictions for the images of a dataset."""
    classes = data.metainfo["classes"]
    metric.dataset_meta = data.metainfo
    for index in range(len(data)):
        info = data.get_data_info(index)
        boxes, scores, labels = made[info["img_path"].rpartition("/")[2]]
        found = {
            "bboxes": torch.tensor(np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])),
            "scores": torch.tensor(scores),
        }
        found["labels"] = torch.tensor([classes.index(CLASSES[n]) for n in labels], dtype=torch.long)
        found["masks"] = [rectangle(box) for box in boxes]
        metric.process({}, [dict(img_id=info["img_id"], ori_shape=(HEIGHT, WIDTH), pred_instances=found)])
    return metric.evaluate(len(data))


def rectangle(box):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    left, top, wide, high = (int(v) for v in box)
    mask[top : top + high, left : left + wide] = 1
    return blobs.encode(mask)


def oracle(truth, made, kind):
    """Return COCO's mAP of predictions by pycocotools alone."""
    objects = []
    for image in truth.dataset["images"]:
        for box, score, label in zip(*made[image["file_name"]], strict=True):
            item = dict(image_id=image["id"], category_id=label + 1, score=score)
            objects.append({**item, **({"bbox": box.tolist()} if kind == "bbox" else {"segmentation": rectangle(box)})})
    evaluation = COCOeval(truth, truth.loadRes(objects), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_file_is_the_sound_one(tmp_path, seed):
    """The dataset has the objects that a person would read, and the metric says what pycocotools says of those."""
    draw = np.random.RandomState(seed)
    (tmp_path / "images").mkdir()
    content, expected = damaged(draw, sound_file(draw, tmp_path / "images"))
    text = json.dumps(content)
    (tmp_path / "a.json").write_bytes((b"\xef\xbb\xbf" if seed % 2 else b"") + text.encode())
    steps = [dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True)]
    data = CocoInstances(
        ann_file="a.json", data_root=str(tmp_path), data_prefix=dict(img="images"), pipeline=steps, test_mode=True
    )
    assert sorted(data.metainfo["classes"]) == sorted(CLASSES)
    loaded = []
    for index in range(len(data)):
        info = data.get_data_info(index)
        assert (info["height"], info["width"]) == (HEIGHT, WIDTH)
        for instance in info["instances"]:
            left, top, right, bottom = instance["bbox"]
            name = data.metainfo["classes"][instance["bbox_label"]]
            box = (left, top, right - left, bottom - top)
            loaded.append((info["img_path"].rpartition("/")[2], name, box, instance["ignore_flag"]))
    assert sorted(loaded) == sorted(expected)
    truth = as_sound_file(expected, tmp_path / "sound.json")
    for shift in (0, 6):
        made = {
            image["file_name"]: predictions_of(draw, expected, image["file_name"], shift)
            for image in truth.dataset["images"]
        }
        metric = CocoInstanceMetric()
        metric.take_data(data)
        result = measured(metric, data, made)
        for kind in ("bbox", "segm"):
            assert result[f"coco/{kind}_mAP"] == pytest.approx(oracle(truth, made, kind), abs=5e-4)
            assert shift or result[f"coco/{kind}_mAP"] == 1.0
