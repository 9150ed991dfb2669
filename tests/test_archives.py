"""Tests of reading files from anywhere: nothing runs, and memory and time are in proportion to the file's size."""

import os
import random
import resource
import time
from collections import Counter, OrderedDict

import pytest
import torch
from hostile import checkpoints as hostile

from ssm_core import weights
from ssm_core.errors import CheckpointError

READ_ALONE = (
    hostile.program, hostile.legacy_program, hostile.bare_pickle, hostile.compressed_zeros, hostile.enlarged_storage,
    hostile.repeated_elements, hostile.more_than_is_there, hostile.negative_sizes, hostile.byte_array,
    hostile.nested_lists, hostile.itself_within, hostile.memo_index, hostile.copied_lists,
    hostile.empty_objects, hostile.attributes_of_a_tensor, hostile.many_dimensions,
    hostile.keys_of_one_hash,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("attack", READ_ALONE, ids=lambda attack: attack.__name__)
def test_hostile_files_are_refused_at_once(attack, seed, tmp_path):
    path, mark = tmp_path / "x.pth", tmp_path / "mark"
    hostile.write(attack, path, seed, mark)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        weights.read_file(path)
    assert not mark.exists()
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "kilobytes"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_everything_that_runs_save_is_read_as_torch_reads_it(zipped, protocol, tmp_path):
    if not zipped and protocol > 2:
        pytest.skip("torch writes the old form in protocol 2 alone")
    base = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    content = {
        "views": [base, base[1:3], base.t(), base[:, 1], base[0, 0], base[:0], torch.empty(0, 3)],
        "kinds": [torch.arange(5).to(kind) for kind in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
            torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128)],
        "parameter": torch.nn.Parameter(base),
        "ordered": OrderedDict(a=1, b=[None, True, 2.5, "é", b"\x00\xff", (), set(), {1, 2}, -(2**40), 2**64 - 1]),
        "milestones": Counter({3: 1, 5: 2}),
        "complex": 1 + 2j,
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "module": torch.nn.BatchNorm1d(3).state_dict(),
    }  # fmt: skip
    path = tmp_path / "x.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    mine = weights.read_file(path)
    if protocol == 2:  # torch's own safe reader knows no other
        same(mine, torch.load(path, weights_only=True))
    same(mine, content)
    assert mine["module"]._metadata == content["module"]._metadata
    assert mine["views"][0].data_ptr() == mine["views"][2].data_ptr(), "views share their memory"


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b


def test_a_pipe_or_a_device_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(CheckpointError, match="it is a pipe or a device and no file"):
            weights.read_file(path)
        assert weights.damage(path) == "it is a pipe or a device and no file"


def test_types_with_a_newer_form(tmp_path):
    content = {"w": torch.arange(6).view(2, 3).to(torch.uint16), "f": torch.ones(4).to(torch.float8_e4m3fn)}
    torch.save(content, tmp_path / "x.pth")
    found = weights.read_file(tmp_path / "x.pth")
    assert [value.dtype for value in found.values()] == [torch.uint16, torch.float8_e4m3fn]
    assert torch.equal(found["w"].int(), content["w"].int())
    assert torch.equal(found["f"].float(), torch.ones(4))


def test_random_damage_is_refused_or_harmless(tmp_path):
    path = tmp_path / "x.pth"
    whole = hostile.model()
    draw = random.Random(0)
    torch.save(whole, path)
    content = path.read_bytes()
    for _ in range(200):
        changed = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            found = weights.read_file(path)
        except CheckpointError:
            continue
        for name, value in whole["state_dict"].items():
            assert torch.equal(found["state_dict"][name], value)


def test_attributes_do_not_hide_methods(tmp_path):
    content = OrderedDict(w=torch.ones(2))
    content.get = content.keys = 3
    torch.save(content, tmp_path / "x.pth")
    assert list(weights.read_state_dict(tmp_path / "x.pth")[0]) == ["w"]


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.complex64])
def test_weights_of_another_kind_do_not_fit(kind):
    module = torch.nn.BatchNorm1d(3)
    state = module.state_dict()
    with pytest.raises(CheckpointError, match=r"the first: weight has .* in the file and floating-point numbers in"):
        weights.load_exactly(module, {**state, "weight": state["weight"].to(kind)}, "x.pth", "it")
    with pytest.raises(
        CheckpointError, match=r"num_batches_tracked has floating-point numbers in the file and integers"
    ):
        weights.load_exactly(module, {**state, "num_batches_tracked": torch.tensor(1.0)}, "x.pth", "it")
    weights.load_exactly(module, {**state, "num_batches_tracked": torch.tensor(3, dtype=torch.int32)}, "x.pth", "it")
    assert module.num_batches_tracked == 3
    assert "weight" not in weights.fitting(state, {**state, "weight": state["weight"].to(kind)})


def test_weights_that_are_not_finite_are_not_loaded():
    module = torch.nn.Linear(2, 2)
    state = {**module.state_dict(), "bias": torch.tensor([1.0, float("nan")])}
    with pytest.raises(CheckpointError, match=r"^x\.pth cannot be used: bias has numbers that are NaN or infinite$"):
        weights.load_exactly(module, state, "x.pth", "it")
    assert module.bias.isfinite().all()
