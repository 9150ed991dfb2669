"""The same seed gives the same weights bit for bit. A killed and resumed run ends with those weights, too."""

import signal
from pathlib import Path

import pytest
import runs

PARTS = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")
EVERY_TWO = ("default_hooks.checkpoint.by_epoch=False", "default_hooks.checkpoint.interval=2")
MODELS = {"resnet": runs.RESNET, "quadmamba": runs.QUADMAMBA, "mambatree": runs.MAMBATREE}


def assert_same(a, b):
    states = [{part: runs.last_state(folder).get(part) for part in PARTS} for folder in (a, b)]
    assert all(states[0].values())
    assert runs.differing(*states) == []


@pytest.fixture(scope="module", params=MODELS)
def reference(request, tmp_path_factory):
    """Return a model's options and the folder of its uninterrupted run."""
    # The points of the curve are at other iterations than the checkpoints.
    options = (*MODELS[request.param], *runs.EVERYTHING_RANDOM, "default_hooks.curves.interval=5")
    folder = tmp_path_factory.mktemp(request.param)
    runs.call(runs.train, folder / "log", options[0], folder / "run", *options[1:], *EVERY_TWO, hooks=[runs.EMA])
    return options, folder / "run"


def test_same_seed_same_weights(reference, tmp_path):
    (name, *options), expected = reference
    options += [*EVERY_TWO, "train_dataloader.num_workers=1", "train_dataloader.persistent_workers=True"]
    # The reference run has no worker, and the number of workers changes nothing.
    runs.call(runs.train, tmp_path / "log", name, tmp_path / "run", *options, hooks=[runs.EMA])
    assert_same(tmp_path / "run", expected)


# Iteration 3 is in the middle of the first epoch. The last checkpoint is of iteration 2, so one iteration is lost.
# Iteration 10 is in the middle of the second epoch, and the run is killed right after its checkpoint.
@pytest.mark.parametrize("iteration", [3, 10])
def test_killed_in_mid_epoch_and_resumed(reference, tmp_path, iteration):
    (name, *options), expected = reference
    # With a worker, loading samples does not seed the generators of the training process.
    run, options = tmp_path / "run", [*options, *EVERY_TWO, "train_dataloader.num_workers=1"]
    killed = -signal.SIGKILL
    runs.call(runs.train_and_die, tmp_path / "1", name, run, iteration, *options, hooks=[runs.EMA], expected=killed)
    assert runs.last_state(run)["meta"]["iter"] == iteration // 2 * 2
    runs.call(runs.train, tmp_path / "2", name, run, *options, resume=True, hooks=[runs.EMA])
    assert_same(run, expected)
    curves = [(folder / "curves.json").read_text() for folder in (run, expected)]
    assert curves[0] == curves[1]


def test_another_seed_gives_other_weights(tmp_path):
    name, *options = runs.QUADMAMBA
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        short = ("train_cfg.max_epochs=1", f"randomness.seed={seed}")
        runs.call(runs.train, tmp_path / "log", name, folder, *options, *short)
    weights = [runs.last_state(tmp_path / seed)["state_dict"] for seed in "01"]
    assert len(runs.differing(*weights)) > len(weights[0]) // 2


def test_killed_while_saving_keeps_the_checkpoint_before(tmp_path):
    name, *options = runs.RESNET
    run, options = tmp_path / "run", [*options, *EVERY_TWO, "default_hooks.checkpoint.max_keep_ckpts=1"]
    killed = -signal.SIGKILL
    runs.call(runs.train_and_die_while_saving, tmp_path / "1", name, run, 3, *options, expected=killed)
    assert list(run.glob(".iter_6.pth.*.tmp")), "the half-written file is a temporary one"
    assert [p.name for p in run.glob("iter_*.pth")] == ["iter_4.pth"]
    assert runs.last_state(run)["meta"]["iter"] == 4
    runs.call(runs.train, tmp_path / "2", name, run, *options, resume=True)
    assert runs.last_state(run)["meta"]["iter"] == 12
    assert not list(run.glob(".*.tmp"))
    assert [p.name for p in run.glob("iter_*.pth")] == ["iter_12.pth"]


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    name, *options = runs.RESNET
    run, options = tmp_path / "run", [*options, *EVERY_TWO]
    runs.call(runs.train_and_die, tmp_path / "1", name, run, 7, *options, expected=-signal.SIGKILL)
    newest = run / "iter_6.pth"
    newest.write_bytes(newest.read_bytes()[:-1000])
    runs.call(runs.train, tmp_path / "2", name, run, *options, resume=True)
    log = (tmp_path / "2").read_text()
    assert f"{newest} is damaged" in log
    assert "resumed epoch: 0, iter: 4" in "".join(p.read_text() for p in run.glob("*/*.log"))
    assert runs.last_state(run)["meta"]["iter"] == 12


def test_killed_between_epoch_checkpoint_and_validation_still_validates(tmp_path):
    name, *options = runs.RESNET
    run = tmp_path / "run"
    runs.call(runs.train, tmp_path / "1", name, run, *options, "train_cfg.max_epochs=1")
    state = runs.last_state(run)
    assert state["meta"] | {"epoch": 1, "iter": 6} == state["meta"]
    # Turn the state into the one that was saved before the validation.
    del state["message_hub"]["runtime_info"]["last_epoch_validated"]
    from ssm_train.runtime import checkpoints as checkpoint

    checkpoint.save(state, run / "epoch_1.pth")
    Path(run / "curves.json").unlink()
    runs.call(runs.train, tmp_path / "2", name, run, *options, "train_cfg.max_epochs=1", resume=True)
    assert '"top1"' in (run / "curves.json").read_text()
