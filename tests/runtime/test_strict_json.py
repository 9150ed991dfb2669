"""Tests that no file has a number that JSON does not know."""

import json
import math

import pytest

from ssm_train.apis.sweep import Outcome, as_json
from ssm_train.runtime.strict_json import strict_json


def refuse(name):
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_null(value):
    text = strict_json({"a": [1, value, {"b": (value, 0.5)}], "c": "nan", "d": None, "e": True}, indent=1)
    assert json.loads(text, parse_constant=refuse) == {
        "a": [1, None, {"b": [None, 0.5]}], "c": "nan", "d": None, "e": True,
    }  # fmt: skip


def test_the_table_of_a_grid_is_strict_json():
    outcome = Outcome(folder="seed=0", settings={"seed": 0})
    outcome.last = math.nan
    assert json.loads(as_json([outcome], "x", "top1"), parse_constant=refuse)["runs"][0]["last"] is None
