"""Tests of reading the curves that a run wrote."""

import json
import math

import numpy as np
import pytest
from mmengine.config import Config

from ssm_core.errors import DataError
from ssm_train.apis.train import TrainingResult
from ssm_train.runtime.hooks.curves import read_curves
from ssm_train.runtime.strict_json import strict_json

CURVES = {
    "train": [{"iter": i, "epoch": 1 + i // 20, "lr": 0.1 / i, "loss": 9.0 / i} for i in range(10, 60, 10)],
    "val": [{"iter": 20, "epoch": 1, "top1": 50.0}, {"iter": 40, "epoch": 2, "top1": 70.0, "top5": 90.0}],
}


def test_reading(tmp_path):
    with pytest.raises(DataError, match=r"there is no .*curves.json: a run of tree-ssm train writes it"):
        read_curves(tmp_path)
    file = tmp_path / "curves.json"
    file.write_text(json.dumps(CURVES))
    assert read_curves(tmp_path) == read_curves(file) == CURVES
    for damaged in ('{"train": [', '{"train": []}', "[1]", '{"train": [{"loss": 1}], "val": []}'):
        file.write_text(damaged)
        with pytest.raises(DataError, match="cannot read the curves"):
            read_curves(tmp_path)
    file.write_text('{"train": [{"iter": "a", "epoch": 1}], "val": []}')
    with pytest.raises(DataError, match="points without iter or epoch"):
        read_curves(tmp_path)


def test_what_was_not_measured(tmp_path):
    """JSON has no NaN, which other programs refuse."""
    values = (math.nan, 0.25, 0.5, math.nan)
    curves = {"train": [], "val": [{"iter": n, "epoch": n, "mAP": value} for n, value in enumerate(values, 1)]}

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    text = strict_json(curves)
    assert [point["mAP"] for point in json.loads(text, parse_constant=refuse)["val"]] == [None, 0.25, 0.5, None]
    (tmp_path / "curves.json").write_text(text)
    found = read_curves(tmp_path)
    np.testing.assert_equal(found, curves)
    cfg = Config({"default_hooks": {"checkpoint": {"save_best": "mAP"}}, "train_cfg": {"max_epochs": 4}})
    assert TrainingResult(tmp_path, found).best("mAP", lowest=True) == (0.25, 2)
    assert TrainingResult(tmp_path, found).describe(cfg) == f"mAP nan, best 0.5 after epoch 3, in {tmp_path}"
    alone = TrainingResult(tmp_path, {"train": [], "val": found["val"][:1]})
    assert alone.best("mAP") is None
    assert alone.describe(cfg) == f"done, but no validation could measure mAP, in {tmp_path}"
    assert TrainingResult(tmp_path, {"train": [], "val": []}).describe(cfg) == f"done, in {tmp_path}"
