"""Files of safetensors are read like checkpoints, and damaged ones are refused."""

import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ssm_core import weights
from ssm_core.errors import CheckpointError
from ssm_core.safetensors_file import write_safetensors

STATE = {
    "half": torch.arange(6.0).half().view(2, 3),
    "brain": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 3),
    "wide": torch.linspace(0, 1, 300, dtype=torch.float64),
}
META = {"dataset_meta": {"classes": ["a", "Ω"]}, "value_range": None}


@pytest.fixture
def saved(tmp_path):
    write_safetensors(tmp_path / "net.safetensors", STATE, META)
    return tmp_path / "net.safetensors"


def assert_whole(state):
    assert state.keys() == STATE.keys()
    for name, tensor in state.items():
        assert tensor.dtype is STATE[name].dtype
        assert torch.equal(tensor, STATE[name])


def test_a_whole_file(saved, tmp_path):
    content = weights.read_file(saved)
    assert_whole(content["state_dict"])
    assert content["meta"] == META
    assert_whole(weights.state_dict_of(content, saved)[0])
    assert weights.read_file(saved, tensors=False) == {"state_dict": dict.fromkeys(STATE), "meta": META}
    assert weights.read_file(saved, "meta")["state_dict"]["count"].device.type == "meta"
    # The library itself reads it, too, and its end says nothing of what it is.
    assert_whole(load_file(saved))
    with safe_open(str(saved), "pt") as file:
        assert file.metadata()["format"] == "pt"
    renamed = saved.rename(tmp_path / "net.bin")
    assert_whole(weights.read_file(renamed)["state_dict"])


def test_who_may_read_other_files_may_read_it(saved, tmp_path):
    (tmp_path / "other").touch()
    assert saved.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_is_read_is_no_longer_the_file(saved):
    state = weights.read_file(saved)["state_dict"]
    content = saved.read_bytes()
    saved.write_bytes(content[:-2400] + bytes(2400))
    assert_whole(state)


def test_tensors_that_are_parts_of_others(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    write_safetensors(tmp_path / "a.safetensors", {"whole": whole, "turned": whole.T, "row": whole[1]}, {})
    read = weights.read_file(tmp_path / "a.safetensors")["state_dict"]
    assert torch.equal(read["whole"], whole)
    assert torch.equal(read["turned"], whole.T)
    assert torch.equal(read["row"], whole[1])


@pytest.mark.parametrize("meta", [None, {}, {"meta": "x"}, {"meta": "[1]"}, {"meta": "[" * 10**5}, {"other": "1"}])
def test_a_file_of_another_program(tmp_path, meta):
    save_file({"w": torch.ones(3)}, tmp_path / "a.safetensors", meta)
    assert weights.read_file(tmp_path / "a.safetensors")["meta"] == {}
    assert weights.read_state_dict(tmp_path / "a.safetensors")[0]["w"].tolist() == [1, 1, 1]


def test_what_json_cannot_hold_is_not_written(tmp_path):
    for value in (float("nan"), torch.ones(1), {1, 2}):
        with pytest.raises((TypeError, ValueError)):
            write_safetensors(tmp_path / "a.safetensors", STATE, {"x": value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.99])
def test_a_cut_off_file(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"net\.safetensors is damaged or not a PyTorch checkpoint"):
        weights.read_file(saved)


def header(**entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        header(w={"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}) + bytes(4),
        header(w={"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}) + bytes(4),
        header(w={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}) + bytes(4),
        header(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
               b={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}) + bytes(4),
        header(w={"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}) + bytes(4),
        header(w=[1]),
        (2**63).to_bytes(8, "little") + b"{" + bytes(100),
        (90).to_bytes(8, "little") + b"{" * 90,
    ],
    ids=["huge", "beyond", "negative", "overlapping", "no type", "no entry", "length", "nested"],
)  # fmt: skip
def test_hostile_headers(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged or not a PyTorch checkpoint"):
        weights.read_file(path)


def test_flipped_bits_of_the_header(saved):
    """The format has no checksums: a file is refused, or has other names, types or texts, and nothing else happens."""
    content, draw = saved.read_bytes(), random.Random(0)
    length = 8 + int.from_bytes(content[:8], "little")
    refused = 0
    for _ in range(300):
        changed = bytearray(content)
        changed[draw.randrange(length)] ^= 1 << draw.randrange(8)
        saved.write_bytes(changed)
        try:
            state = weights.read_file(saved)["state_dict"]
        except CheckpointError:
            refused += 1
        else:
            assert sum(t.numel() * t.element_size() for t in state.values()) <= len(content)
    assert 100 < refused < 300
