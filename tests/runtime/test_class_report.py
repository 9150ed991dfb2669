"""Tests of the figures of every class: their files, their picture, and the figures themselves."""

import csv

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

from ssm_train.runtime.class_report import ClassReport, figures_of


def test_overlaps_are_those_of_torchmetrics():
    draw = torch.Generator().manual_seed(0)
    true, predicted = torch.randint(4, (2, 60), generator=draw)
    confusion = np.zeros((5, 5), dtype=int)
    np.add.at(confusion, (true.numpy(), predicted.numpy()), 1)
    found = figures_of(confusion)["iou"]
    expected = multiclass_jaccard_index(predicted, true, 4, average=None)
    assert found[:4] == pytest.approx(100 * expected.numpy(), rel=1e-5)
    assert np.isnan(found[4])


def test_files(tmp_path):
    columns = {"pixels": [1_204_744, 0], "f1": [12.5, float("nan")]}
    report = ClassReport(["a, b", "ü"], columns, np.array([[2, 1], [0, 0]]))
    report.write(tmp_path, "val")
    rows = list(csv.reader((tmp_path / "val_classes.csv").read_text().splitlines()))
    assert rows == [["class", "pixels", "f1"], ["a, b", "1204744", "12.5"], ["ü", "0", ""]]
    rows = list(csv.reader((tmp_path / "val_confusion.csv").read_text().splitlines()))
    assert rows == [["true \\ predicted", "a, b", "ü"], ["a, b", "2", "1"], ["ü", "0", "0"]]


def test_picture():
    counts = np.array([[20000, 1, 0], [0, 5, 5], [1, 0, 0]])
    axes = ClassReport(["a$b$", "x" * 50], {}, counts, background=True).draw().axes[0]
    assert [text.get_text() for text in axes.texts] == ["20k", "1", "5", "5", "1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [r"a\$b\$", "x" * 23 + "…", "(background)"]
    np.testing.assert_allclose(axes.images[0].get_array()[1], [0, 0.5, 0.5])
    many = np.eye(1000, dtype=int)
    assert not ClassReport([str(i) for i in range(1000)], {}, many).draw().axes[0].texts
    assert ClassReport(["a"], {"AP": [0.5]}).draw() is None
