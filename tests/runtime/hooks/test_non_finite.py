"""A NaN stops a run. One line says where it arose, and a state to continue from is saved."""

import re
from pathlib import Path

import pytest
import runs
import torch

from ssm_core import weights

NO_SAVES = ("default_hooks.checkpoint.interval=-1", "default_hooks.non_finite.interval=2")
PARAMETER = "backbone.conv_stem.weight"


def train_into_nan(tmp_path, model, hook, *more):
    """Train until the hook's NaN stops the run. Return the one line on stderr and the saved state."""
    name, *options = [*model, *more]
    runs.call(
        runs.train_tool,
        tmp_path / "log",
        name,
        tmp_path / "run",
        *options,
        *NO_SAVES,
        hooks=[hook, runs.EMA],
        expected=1,
    )
    lines = [line for line in Path(f"{tmp_path}/log.err").read_text().splitlines() if "Warning" not in line]
    lines = [line for line in lines if not line.startswith("  ")]  # drop the source line under a warning
    assert len(lines) == 1, lines
    return lines[0], runs.last_state(tmp_path / "run")


def assert_good(state, iteration):
    assert state["meta"]["iter"] == iteration
    assert weights.first_non_finite(state["state_dict"]) is None
    assert weights.first_non_finite(state["ema_state_dict"]) is None
    moments = state["optimizer"]["state"].values()
    assert all(torch.isfinite(m["exp_avg"]).all() and torch.isfinite(m["exp_avg_sq"]).all() for m in moments)


def test_a_bad_batch_is_named_and_the_state_before_it_saved(tmp_path):
    model = (*runs.RESNET[:1], "model.backbone.name=test_efficientnet_gn")
    line, state = train_into_nan(tmp_path, model, dict(type="runs.PoisonInputHook", iteration=9))
    assert "stopped at iteration 9 (epoch 2), learning rate 0.00" in line
    assert "the loss is nan" in line
    assert "all parameters are finite" in line
    assert re.search(r"1 of 8 inputs not finite: digit \d+;", line)
    assert f"in {tmp_path / 'run' / 'iter_8.pth'}" in line
    assert_good(state, 8)
    runs.call(runs.train, tmp_path / "again", *model[:1], tmp_path / "run", *model[1:], resume=True, hooks=[runs.EMA])
    assert runs.last_state(tmp_path / "run")["meta"]["iter"] == 12


@pytest.mark.parametrize("model", [runs.RESNET, runs.MAMBATREE], ids=["batch-norm", "model-raises"])
def test_what_the_forward_pass_spoils_is_not_saved(tmp_path, model):
    # The NaN reaches the running statistics of a batch norm before the loss is known. A spanning tree raises at once.
    line, state = train_into_nan(tmp_path, model, dict(type="runs.PoisonInputHook", iteration=10))
    assert "stopped at iteration 10 (epoch 2)" in line
    assert "not finite: digit" in line
    if model is runs.MAMBATREE:
        assert "minimum_spanning_tree" in line
        assert_good(state, 9)
    else:
        assert_good(state, 8)


def test_a_bad_parameter_is_named_and_an_earlier_state_saved(tmp_path):
    hook = dict(type="runs.PoisonParameterHook", iteration=7, parameter=PARAMETER)
    line, state = train_into_nan(tmp_path, runs.RESNET, hook)
    assert "stopped at iteration 8 (epoch 2)" in line
    assert f"the first bad parameter is {PARAMETER}" in line
    assert_good(state, 6)


class EarlyPoisonHook(runs.PoisonParameterHook):
    """Sets a weight to NaN before the copy of the iteration is made."""

    priority = "NORMAL"


def test_a_copy_with_nan_is_not_used(tmp_path):
    hook = dict(type=f"{__name__}.EarlyPoisonHook", iteration=8, parameter=PARAMETER)
    line, state = train_into_nan(tmp_path, runs.RESNET, hook)
    assert "stopped at iteration 9 (epoch 2)" in line
    assert_good(state, 6)


class PoisonMomentHook(EarlyPoisonHook):
    """Sets a number that the optimizer keeps to NaN, in an entry of which no gradient comes any more."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            parameter = runner.bare_model.get_parameter(self.parameter)
            runner.optim_wrapper.optimizer.state[parameter]["exp_avg"].view(-1)[1] = float("nan")


def test_a_copy_whose_optimizer_has_nan_is_not_used(tmp_path):
    hook = dict(type=f"{__name__}.PoisonMomentHook", iteration=8, parameter=PARAMETER)
    line, state = train_into_nan(tmp_path, runs.RESNET, hook)
    assert "stopped at iteration" in line
    assert_good(state, 6)


def test_with_accumulation_all_batches_of_the_update_are_named(tmp_path):
    model = (runs.RESNET[0], "model.backbone.name=test_efficientnet_gn")
    hook = dict(type="runs.PoisonInputHook", iteration=10)
    line, state = train_into_nan(tmp_path, model, hook, "optim_wrapper.accumulative_counts=3")
    assert "stopped at iteration 12 (epoch 2)" in line
    assert re.search(r"the 3 batches of the update have 1 of 24 inputs not finite: digit \d+;", line)
    assert_good(state, state["meta"]["iter"])


def test_no_copy_is_made_in_the_middle_of_an_update(tmp_path):
    hook = dict(type="runs.PoisonParameterHook", iteration=8, parameter=PARAMETER)
    _, state = train_into_nan(tmp_path, runs.RESNET, hook, "optim_wrapper.accumulative_counts=3")
    assert_good(state, 6)


def test_a_checkpoint_with_nan_is_never_written(tmp_path):
    name, *options = runs.RESNET
    hook = dict(type="runs.PoisonParameterHook", iteration=12, parameter=PARAMETER)
    runs.call(runs.train_tool, tmp_path / "log", name, tmp_path / "run", *options, hooks=[hook], expected=1)
    assert_good(runs.last_state(tmp_path / "run") | {"ema_state_dict": {}}, 6)
    line = Path(f"{tmp_path}/log.err").read_text()
    assert "stopped at iteration 12 (epoch 2)" in line
    assert f"{PARAMETER} is not finite" in line
    assert "the last good state is in" in line
    assert "epoch_1.pth" in line
