"""Tests of files of arrays: what is written is read, and nothing else is."""

import copy
import json
import pickle
import struct

import numpy as np
import pytest

from ssm_core.errors import DataError
from ssm_train.data.array_file import ArrayFile, write_arrays

ARRAYS = {
    "numbers": np.linspace(-1e300, 1e300, 1001).reshape(77, 13),
    "ids": np.arange(5) - 2**62,
    "none": np.zeros((0, 4), np.int32),
    "bytes": np.arange(251, dtype=np.uint8),
}
NOTES = {"a": [1, None, "ä\ud800"]}


@pytest.fixture
def path(tmp_path):
    with (tmp_path / "arrays").open("wb") as file:
        write_arrays(file, ARRAYS, NOTES)
    return tmp_path / "arrays"


def assert_whole(file):
    assert file.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert file.arrays[name].dtype == array.dtype
        assert np.array_equal(file.arrays[name], array)
        assert array.size == 0 or not file.arrays[name].flags.writeable


def test_what_is_written_is_read(path):
    file = ArrayFile(path)
    assert_whole(file)
    assert file.notes == NOTES


def test_a_copy_for_another_process_has_no_data_and_outlives_the_name(path):
    file = ArrayFile(path)
    text = pickle.dumps(file)
    assert len(text) < 300
    path.unlink()
    assert_whole(pickle.loads(text))
    assert copy.deepcopy(file) is file


def test_every_change_is_noticed(path):
    content = path.read_bytes()
    places = [*range(0, len(content), 97), *range(len(content) - 40, len(content))]
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataError, match=r"is damaged|is no file of arrays"):
            ArrayFile(path)
    for length in (0, 1, 35, 36, 1000, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"is damaged|is no file of arrays"):
            ArrayFile(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(DataError, match="is no file of arrays"):
        ArrayFile(path)
    with pytest.raises(FileNotFoundError):
        ArrayFile(path.with_name("missing"))


@pytest.mark.parametrize(
    "described",
    [
        {"x": ["|O", [1], 0]},
        {"x": ["<f8", [10**9], 0]},
        {"x": ["<f8", [-1], 0]},
        {"x": ["<f8", [1], -8]},
        {"x": ["<f8"]},
        {"x": None},
        [],
        None,
    ],
)
def test_a_description_that_somebody_made_up(path, described):
    """Its digest is right. No object is made, and no memory beyond the file is read."""
    from hashlib import blake2b

    text = json.dumps({"arrays": described, "notes": None}).encode()
    body = bytes(64) + text
    path.write_bytes(body + struct.pack("<q20s8s", len(text), blake2b(body, digest_size=20).digest(), b"arrays-1"))
    with pytest.raises(DataError, match="is damaged"):
        ArrayFile(path)
