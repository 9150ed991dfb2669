"""Tests of COCO annotation files as other programs write them: what is understood, left out and said."""

import json
import math

import blobs
import numpy as np
import pytest
from pycocotools import mask as codec

from ssm_core.errors import ConfigError, DataError
from ssm_train.tasks.detection.annotations import read_annotations
from ssm_train.tasks.detection.masks import are_run_lengths, read_mask

NAN = math.nan


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
    path = coco(annotations=[blobs.changed(first, change), *others])
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
    path = coco(annotations=[blobs.changed(first, dict(segmentation=BAD_MASKS[name])), *others])
    bare = blobs.changed(first, dict(segmentation=...))
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
    boxes = [blobs.changed(a, dict(segmentation=[])) for a in coco.content["annotations"]]
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
