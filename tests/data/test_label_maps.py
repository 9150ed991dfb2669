"""Label maps are read from the kinds of files that programs write, and no label is narrowed before it is checked."""

import os

import numpy as np
import pytest
import tifffile
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from ssm_core.errors import ConfigError
from ssm_train.data.label_maps import check_palette, read_label_map
from ssm_train.data.loading import LoadLabelMap

LABELS = np.random.default_rng(0).integers(0, 3, (9, 7), np.uint8)
PALETTE = [(0, 0, 0), (200, 0, 30), (7, 7, 7)]


def with_palette(labels):
    image = Image.fromarray(labels, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [0] * 759)
    return image


KINDS = {
    "8 bits": (".png", lambda: Image.fromarray(LABELS)),
    "16 bits": (".png", lambda: Image.fromarray(LABELS.astype(np.uint16))),
    "32 bits": (".tif", lambda: Image.fromarray(LABELS.astype(np.int32))),
    "floating point": (".tif", lambda: Image.fromarray(LABELS.astype(np.float32))),
    "three equal channels": (".png", lambda: Image.fromarray(np.dstack([LABELS] * 3))),
    "opacity": (".png", lambda: Image.fromarray(np.dstack([LABELS, LABELS * 9]))),
    "colours and opacity": (".png", lambda: Image.fromarray(np.dstack([LABELS] * 4))),
    "a palette": (".png", lambda: with_palette(LABELS)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_labels(tmp_path, kind):
    suffix, make = KINDS[kind]
    make().save(tmp_path / f"x{suffix}")
    assert np.array_equal(read_label_map(tmp_path / f"x{suffix}"), LABELS)
    loaded = LoadLabelMap()({"seg_map_path": str(tmp_path / f"x{suffix}")})
    assert loaded["gt_seg_map"].dtype == np.uint8
    assert np.array_equal(loaded["gt_seg_map"], LABELS)


def test_two_classes_may_be_one_bit(tmp_path):
    Image.fromarray(LABELS > 0).save(tmp_path / "x.png")
    assert np.array_equal(read_label_map(tmp_path / "x.png"), LABELS > 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float64])
def test_arrays(tmp_path, dtype):
    np.save(tmp_path / "x.npy", LABELS.astype(dtype))
    assert np.array_equal(read_label_map(tmp_path / "x.npy"), LABELS)


def test_colours_by_a_palette(tmp_path):
    colours = np.array([*PALETTE, (255, 255, 255)], np.uint8)
    Image.fromarray(colours[np.where(LABELS == 0, 3, LABELS)]).save(tmp_path / "x.png")
    found = LoadLabelMap(PALETTE)({"seg_map_path": str(tmp_path / "x.png"), "seg_fields": ["other"]})
    assert np.array_equal(found["gt_seg_map"], np.where(LABELS == 0, 255, LABELS)), "white is ignored"
    assert found["seg_fields"] == ["other", "gt_seg_map"]
    # The colours of a palette in the file are colours too.
    with_palette(LABELS).save(tmp_path / "p.png")
    assert np.array_equal(read_label_map(tmp_path / "p.png", [(0, 255, 0), (255, 0, 0), (0, 0, 0)]), 2 - LABELS)


def test_white_may_be_a_class(tmp_path):
    Image.fromarray((LABELS > 0).astype(np.uint8) * 255).convert("RGB").save(tmp_path / "x.png")
    assert np.array_equal(read_label_map(tmp_path / "x.png", [(0, 0, 0), (255, 255, 255)]), LABELS > 0)


def test_colours_without_a_palette_say_what_to_do(tmp_path):
    Image.fromarray(np.array(PALETTE, np.uint8)[LABELS]).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"in colours, such as \(200, 0, 30\): give the step .* palette="):
        read_label_map(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"has the colour \(200, 0, 30\), which the palette lacks"):
        read_label_map(tmp_path / "x.png", [(0, 0, 0), (7, 7, 7)])


@pytest.mark.parametrize("label", [256, 257, 65535, -1])
def test_labels_are_checked_before_they_are_narrowed(tmp_path, label):
    labels = LABELS.astype(np.int32)
    labels[2, 3] = label
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, labels.astype(np.uint16) if label > 0 else labels)
    with pytest.raises(ValueError, match="classes are numbered from 0, 255 is ignored"):
        LoadLabelMap()({"seg_map_path": str(path)})


@pytest.mark.parametrize("values", [np.zeros((2, 3, 4), np.uint8), np.zeros((0, 3), np.uint8), np.zeros(5, np.uint8)])
def test_other_shapes_are_refused(tmp_path, values):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(ValueError, match=r"needs \[height, width\]"):
        read_label_map(tmp_path / "x.npy")


@pytest.mark.parametrize("bad", [0.5, np.nan, np.inf])
def test_labels_are_whole_numbers(tmp_path, bad):
    np.save(tmp_path / "x.npy", np.float32([[0, bad]]))
    with pytest.raises(ValueError, match="not whole"):
        read_label_map(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "palette", ["red", [(0, 0)], [(0, 0, 300)], [(1, 1, 1), (1, 1, 1)], [], [("a", 0, 0)]], ids=str
)
def test_a_palette_is_distinct_colours(palette):
    with pytest.raises(ConfigError):
        check_palette(palette)


@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("label_map", [None, {0: 1, 1: 0, 2: 255}])
def test_labels_are_changed_as_mmseg_changes_them(tmp_path, reduce, label_map):
    labels = np.random.default_rng(1).integers(0, 256, (40, 40), np.uint8)
    Image.fromarray(labels).save(tmp_path / "x.png")
    known = {
        "seg_map_path": str(tmp_path / "x.png"), "reduce_zero_label": reduce, "label_map": label_map, "seg_fields": [],
    }  # fmt: skip
    expected = LoadAnnotations()({**known, "seg_fields": []})["gt_seg_map"]
    assert np.array_equal(LoadLabelMap()(known)["gt_seg_map"], expected)


@pytest.mark.parametrize("kind", [".tif", ".npy"])
def test_the_order_of_bytes_changes_no_label(tmp_path, kind):
    path, labels = tmp_path / f"x{kind}", LABELS.astype(">u2") * np.array(300, ">u2")
    if kind == ".npy":
        np.save(path, labels)
    else:
        tifffile.imwrite(path, labels, byteorder=">")
    found = read_label_map(path)
    assert np.array_equal(found, labels)
    assert found.dtype == np.uint16


def test_a_label_map_has_one_page(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.stack([LABELS] * 3), photometric="minisblack")
    with pytest.raises(ValueError, match="its label map has 3 pages, and must have one"):
        read_label_map(tmp_path / "x.tif")


def test_a_pipe_is_no_label_map(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(OSError, match="it is no file, but a pipe"):
        read_label_map(tmp_path / "x.png")
