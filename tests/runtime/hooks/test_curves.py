"""Tests of reading the curves that a run wrote."""

import json

import pytest

from ssm_core.errors import DataError
from ssm_train.runtime.hooks.curves import read_curves

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
