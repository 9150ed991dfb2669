"""Tests of reading weights: only whole files are read, nothing in them is executed, and misfits are reported."""

import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from ssm_core import weights
from ssm_core.errors import CheckpointError

VALUES = torch.arange(1000.0)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "iter_3.pth"
    torch.save({"state_dict": {"w": VALUES}}, path)
    return path


# --- Files


def test_a_whole_file(saved):
    assert weights.damage(saved) is None
    assert torch.equal(weights.read_file(saved)["state_dict"]["w"], VALUES)
    assert torch.equal(weights.read_file(str(saved))["state_dict"]["w"], VALUES)


def test_tensors_go_to_the_device_that_is_asked_for(saved):
    assert weights.read_file(saved)["state_dict"]["w"].device.type == "cpu"
    assert weights.read_file(saved, "meta")["state_dict"]["w"].device.type == "meta"


def test_a_missing_file(tmp_path):
    assert weights.damage(tmp_path / "no.pth") == "there is no such file"
    with pytest.raises(CheckpointError, match=r"^cannot read the checkpoint \S+no\.pth: there is no such file$"):
        weights.read_file(tmp_path / "no.pth")


def test_a_folder_is_no_file(tmp_path):
    assert "directory" in weights.damage(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*directory"):
        weights.read_file(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_off_file(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    assert weights.damage(saved) is not None
    with pytest.raises(CheckpointError, match="damaged"):
        weights.read_file(saved)


def test_one_flipped_bit(saved):
    content = bytearray(saved.read_bytes())
    content[content.index(VALUES[500:510].numpy().tobytes())] ^= 1
    saved.write_bytes(content)
    assert "checksum" in weights.damage(saved)
    with pytest.raises(CheckpointError, match="checksum"):
        weights.read_file(saved)


@pytest.mark.parametrize("content", [b"", b"PK", b"no checkpoint\n" * 100, bytes(range(256)) * 8], ids=repr)
def test_what_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    assert weights.damage(path) is not None
    with pytest.raises(CheckpointError, match=r"x\.pth is damaged or not a PyTorch checkpoint"):
        weights.read_file(path)


def test_an_archive_of_something_else(tmp_path):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert weights.damage(path) is None
    with pytest.raises(CheckpointError, match="is damaged or not a PyTorch checkpoint"):
        weights.read_file(path)


def test_files_from_before_torch_1_6(tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"w": VALUES}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(weights.read_file(path)["w"], VALUES)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is damaged or not a PyTorch checkpoint"):
        weights.read_file(path)


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Note:
    """An object of a class that the reader does not know."""


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_are_not_executed(tmp_path, zipped):
    path, harm = tmp_path / "x.pth", tmp_path / "harm"
    torch.save({"w": VALUES, "extra": Harm(harm)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"x\.pth holds pickled Python objects \(\S+\), which could run any code"):
        weights.read_file(path)
    assert not harm.exists()
    torch.save({"w": VALUES, "extra": Note()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"\(\S*test_weights\.Note\)"):
        weights.read_file(path)


# --- The weights in a file


STATE = {"stem.weight": torch.ones(2), "head.weight": torch.ones(3)}


@pytest.mark.parametrize("entry", ["", *weights.CONTAINERS, *weights.AVERAGED])
def test_the_entry_with_the_weights_is_found(entry):
    content = {entry: STATE, "epoch": 3} if entry else OrderedDict(STATE)
    found, name = weights.state_dict_of(content, "x.pth")
    assert (found, name) == (STATE, entry)


def test_averaged_weights_are_taken_last_or_on_request():
    content = {"model_ema": {"w": torch.zeros(1)}, "model": {"w": torch.ones(1)}}
    assert weights.state_dict_of(content, "x.pth") == (content["model"], "model")
    assert weights.state_dict_of(content, "x.pth", "model_ema") == (content["model_ema"], "model_ema")


def test_an_entry_that_is_no_state_dict_is_passed_over():
    content = {"state_dict": "elsewhere", "model": STATE}
    assert weights.state_dict_of(content, "x.pth") == (STATE, "model")


def test_a_data_parallel_wrapper_shows_in_no_name():
    wrapped = {f"module.{name}": value for name, value in STATE.items()}
    assert weights.state_dict_of({"state_dict": wrapped}, "x.pth")[0] == STATE
    half = {"module.stem.weight": torch.ones(2), "head.weight": torch.ones(3)}
    assert weights.state_dict_of(half, "x.pth")[0] == half


@pytest.mark.parametrize(
    ("content", "entry", "words"),
    [
        ([torch.ones(2)], None, r"x\.pth holds a list, not a dictionary of weights"),
        (torch.ones(2), None, "holds a Tensor, not a dictionary"),
        (None, None, "holds a NoneType, not a dictionary"),
        ({}, None, r"x\.pth is not a state dict: it holds nothing"),
        ({"state_dict": {}}, None, "its entry 'state_dict' holds nothing"),
        ({"epoch": 3, "w": torch.ones(2)}, None, "it holds other things than named dense tensors: epoch"),
        ({"model": {7: torch.ones(2)}}, None, "its entry 'model' holds other things than named dense tensors: 7"),
        ({"w": torch.ones(2).to_sparse()}, None, "it holds other things than named dense tensors: w"),
        ({"w": torch.ones(2, device="meta")}, None, "it holds other things than named dense tensors: w"),
        ({"model": STATE, "epoch": 3}, "ema", "has no state dict 'ema': its entries are model, epoch"),
        ({"model": STATE, "epoch": 3}, "epoch", "has no state dict 'epoch'"),
    ],
)
def test_content_without_weights(content, entry, words):
    with pytest.raises(CheckpointError, match=words):
        weights.state_dict_of(content, "x.pth", entry)


def test_reading_the_weights_of_a_file(tmp_path):
    path = tmp_path / "x.pth"
    state = {"backbone.stem.weight": torch.ones(2), "head.weight": torch.ones(3)}
    torch.save({"state_dict": state, "ema": {"backbone.stem.weight": torch.zeros(2)}}, path)
    found, entry = weights.read_state_dict(path)
    assert (list(found), entry) == (list(state), "state_dict")
    found, entry = weights.read_state_dict(path, prefix="backbone.")
    assert (list(found), entry) == (["stem.weight"], "state_dict")
    assert torch.equal(found["stem.weight"], torch.ones(2))
    found, entry = weights.read_state_dict(path, "ema", "backbone.")
    assert (found["stem.weight"].sum(), entry) == (0, "ema")
    with pytest.raises(CheckpointError, match=r"no name in .* begins with 'neck\.': the first is backbone\.stem"):
        weights.read_state_dict(path, prefix="neck.")


# --- Names


def test_prefixes():
    state = {"a.x": torch.ones(1), "a.a.y": torch.ones(2), "b": torch.ones(3)}
    assert list(weights.select_prefix(state, "a.")) == ["x", "a.y"]
    assert weights.select_prefix(state, "") == state
    assert weights.select_prefix(state, "c.") == {}
    assert list(weights.strip_prefix(state, "a.")) == list(state), "one name has no such prefix"
    assert list(weights.strip_prefix({"module.a": torch.ones(1)})) == ["a"]
    assert weights.strip_prefix({}) == {}


def test_a_bare_backbone_is_named_as_the_whole_model_names_it():
    whole = {"backbone.stem.weight": torch.ones(2), "neck.weight": torch.ones(3)}
    bare = {"stem.weight": torch.zeros(2), "head.weight": torch.zeros(5)}
    assert list(weights.add_backbone_prefix(bare, whole)) == ["backbone.stem.weight", "backbone.head.weight"]
    assert list(weights.add_backbone_prefix(bare, {"stem.weight": torch.ones(2)})) == list(bare)
    assert list(weights.add_backbone_prefix(bare, {"other": torch.ones(2)})) == list(bare), "it fits in neither way"


# --- What fits a model


def test_misfit():
    assert weights.misfit(STATE, dict(STATE)) == ([], "")
    names, words = weights.misfit(STATE, {"stem.weight": torch.ones(2), "head.weihgt": torch.ones(3)})
    assert names == ["head.weight", "head.weihgt"]
    assert words == "head.weight is not in the file (did you mean 'head.weihgt'?)"
    assert (
        "head.weight is (4,) in the file and (3,)" in weights.misfit(STATE, {**STATE, "head.weight": torch.ones(4)})[1]
    )
    assert "x is not in the model" in weights.misfit(STATE, {**STATE, "x": torch.ones(4)})[1]


def test_weights_have_to_fit_exactly():
    module = nn.Linear(2, 3)
    state = {"weight": torch.full((3, 2), 7.0), "bias": torch.full((3,), 5.0)}
    weights.load_exactly(module, state, "x.pth", "this Linear")
    assert (module.weight == 7).all()
    assert (module.bias == 5).all()
    for faulty in ({"weight": state["weight"]}, {**state, "scale": torch.ones(1)}, {**state, "bias": torch.ones(4)}):
        with pytest.raises(CheckpointError, match=r"^x\.pth does not fit this Linear: 1 tensors differ, the first: "):
            weights.load_exactly(module, faulty, "x.pth", "this Linear")
    assert (module.weight == 7).all(), "what does not fit is not loaded in part"


def test_what_a_model_takes_of_a_checkpoint():
    expected = {
        "backbone.stem.w": torch.ones(2),
        "backbone.norm.w": torch.ones(2),
        "neck.w": torch.ones(3),
        "neck.b": torch.ones(1),
    }
    found = {"backbone.stem.w": torch.zeros(2), "neck.w": torch.zeros(4), "head.w": torch.zeros(5)}
    assert list(weights.fitting(expected, found)) == ["backbone.stem.w"]
    assert weights.report(expected, found) == (
        "1 tensors are taken; these start afresh: backbone.norm (1), neck (2); these are not used: neck (1), head (1)"
    )
    assert weights.report(expected, expected) == ""
    more = {**expected, "head.w": torch.zeros(5)}
    assert weights.report(expected, more).endswith("start afresh: none; these are not used: head (1)")


def test_first_non_finite():
    state = {
        "count": torch.tensor(3),
        "a": torch.ones(2),
        "empty": torch.empty(0),
        "b": torch.tensor([1.0, float("inf")]),
        "c": torch.tensor([float("nan")]),
    }
    assert weights.first_non_finite(state) == "b"
    assert weights.first_non_finite({k: v for k, v in state.items() if k != "b"}) == "c"
    assert weights.first_non_finite({k: v for k, v in state.items() if k not in "bc"}) is None
    assert weights.first_non_finite({}) is None


def test_long_lists_of_names_are_cut():
    assert weights.listed([]) == ""
    assert weights.listed(["a", "b"]) == "a, b"
    assert weights.listed(list("abcde"), most=3) == "a, b, c and 2 more"
