"""Tests of what a folder tells of a run of a sweep."""

import os

from ssm_train.apis.run_records import RECORD, seconds_of


def test_a_killed_run_took_until_its_last_file(tmp_path):
    (tmp_path / RECORD).write_text("{}")
    known = {"seconds": 5.0, "began": 1_000.0}
    assert seconds_of({"seconds": 5.0, "began": None}, tmp_path) == 5
    assert seconds_of(known, tmp_path) == 5  # its files were deleted
    for name, time in (("ablation.log", 1_007), ("curves.json", 1_003)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    assert seconds_of(known, tmp_path) == 12
