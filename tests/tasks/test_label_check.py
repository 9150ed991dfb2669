"""Label maps from which nothing can be learnt are named before training."""

from types import SimpleNamespace

import numpy as np
import pytest
from mmseg.datasets import BaseSegDataset
from PIL import Image

from ssm_core.errors import DataError
from ssm_train.registry import TRANSFORMS
from ssm_train.tasks.label_check import LabelMapsHook, count_labels, findings

CLASSES = ("ground", "disc", "ring")


def dataset(root, maps, classes=CLASSES):
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for number, labels in enumerate(maps):
        Image.new("RGB", (4, 3)).save(root / "images" / f"{number}.jpg")
        Image.fromarray(np.broadcast_to(np.uint8(labels), (3, 4)).copy()).save(root / "labels" / f"{number}.png")
    return BaseSegDataset(
        data_root=str(root), data_prefix={"img_path": "images", "seg_map_path": "labels"},
        metainfo={"classes": classes}, pipeline=[TRANSFORMS.build({"type": "LoadLabelMap"})],
    )  # fmt: skip


def warnings_of(data, most=300):
    said = []
    loader = SimpleNamespace(dataset=data)
    LabelMapsHook(most).before_train(
        SimpleNamespace(train_dataloader=loader, logger=SimpleNamespace(warning=said.append))
    )
    return said


def test_pixels_are_counted(tmp_path):
    data = dataset(tmp_path, [[0, 0, 1, 255], 2, 255])
    counts = count_labels(data, 300)
    assert (counts.maps, counts.empty) == (3, 1)
    assert {k: n for k, n in enumerate(counts.pixels) if n} == {0: 6, 1: 3, 2: 12, 255: 15}
    assert count_labels(data, 2).maps == 2
    assert warnings_of(data) == ["1 of 3 label maps have no pixel of any class"]


def test_masks_of_0_and_255_end_the_training(tmp_path):
    data = dataset(tmp_path, [[0, 0, 0, 255]] * 3, CLASSES[:2])
    words = (
        r"^nothing can be learnt: no pixel of disc in 3 label maps, and 25% of the pixels are 255, which is ignored: "
    )
    with pytest.raises(DataError, match=f"{words}write 1 instead of 255 for the object$"):
        warnings_of(data)


def test_a_class_without_a_pixel_is_named(tmp_path):
    data = dataset(tmp_path, [[0, 0, 1, 1]] * 3)
    assert warnings_of(data) == ["no pixel of ring in 3 label maps, and 0% of the pixels are 255, which is ignored"]
    assert warnings_of(data, most=2) == [], "a rare class may be in the others"


def test_good_label_maps_are_passed_in_silence(tmp_path):
    assert warnings_of(dataset(tmp_path, [0, 1, 2])) == []


def test_unreadable_maps_are_passed_over(tmp_path):
    data = dataset(tmp_path, [0, 1, 2, 0])
    (tmp_path / "labels" / "3.png").write_bytes(b"nothing")
    assert count_labels(data, 300).maps == 3
    assert findings(count_labels(data, 300), CLASSES, complete=False) == []
