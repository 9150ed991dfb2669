"""Values that are read an iteration late change nothing: not the weights, the log, the states or what a NaN leaves."""

import json
import signal
from pathlib import Path

import pytest
import runs
import torch
from mmengine.hooks import Hook, LoggerHook
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ssm_core.errors import NonFiniteError
from ssm_train.runtime.late_reports import hooks_at_once
from ssm_train.runtime.optimizers import GuardedOptimWrapper

FUSED = ("optim_wrapper.optimizer.fused=True",)
# The points of the curve, the checkpoints and the epochs end at different iterations.
OPTIONS = (
    *FUSED,
    "default_hooks.curves.interval=5",
    "default_hooks.checkpoint.by_epoch=False",
    "default_hooks.checkpoint.interval=4",
    "default_hooks.non_finite.interval=2",
)
PARTS = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")


class PoisonInputHook(runs.PoisonInputHook):
    runs_late = True


class StopHook(runs.SignalHook):
    runs_late = True


LATE = dict(type="runs.LateHook")


def train(tmp_path, name, model, *options, hooks=(), tool=runs.train, **settings):
    runs.call(tool, tmp_path / f"{name}.log", model[0], tmp_path / name, *model[1:], *OPTIONS, *options,
              hooks=[runs.EMA, *hooks], **settings)  # fmt: skip
    return tmp_path / name


def records(folder):
    """Return what was logged, in its order, without what depends on the clock."""
    (path,) = folder.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if "time" not in key} for line in lines]


def assert_same(a, b):
    states = [runs.last_state(folder) for folder in (a, b)]
    assert runs.differing(*({part: state[part] for part in PARTS} for state in states)) == []
    scalars = [state["message_hub"]["log_scalars"] for state in states]
    kept = [{key: value for key, value in part.items() if "time" not in key} for part in scalars]
    assert str(kept[0]) == str(kept[1])  # a float16 run begins with NaN, which differs from itself
    assert states[0]["meta"]["iter"] == states[1]["meta"]["iter"]


@pytest.mark.parametrize(
    "options",
    [(), ("optim_wrapper.accumulative_counts=2", "optim_wrapper.dtype=float16")],
    ids=["plain", "accumulated-float16"],
)
def test_a_late_run_is_the_same(tmp_path, options):
    at_once = train(tmp_path, "once", runs.RESNET, *options)
    late = train(tmp_path, "late", runs.RESNET, *options, hooks=[LATE])
    assert_same(late, at_once)
    assert (late / "curves.json").read_text() == (at_once / "curves.json").read_text()
    assert records(late) == records(at_once)
    assert len(records(late)) == 14  # twelve iterations and two validations


def test_a_late_run_is_killed_or_stopped_and_resumed(tmp_path):
    expected = train(tmp_path, "expected", runs.RESNET, hooks=[LATE])
    # Killed after the checkpoint of iteration 4, and stopped by a signal after iteration 9, in the second epoch.
    folder = train(
        tmp_path, "run", runs.RESNET, hooks=[LATE, dict(type=f"{__name__}.KillHook", iteration=6)],
        expected=-signal.SIGKILL,
    )  # fmt: skip
    assert runs.last_state(folder)["meta"]["iter"] == 4
    train(tmp_path, "run", runs.RESNET, hooks=[LATE, dict(type=f"{__name__}.StopHook", iteration=9)],
          tool=runs.train_tool, resume=True, expected=75)  # fmt: skip
    assert runs.last_state(folder)["meta"]["iter"] == 9
    train(tmp_path, "run", runs.RESNET, hooks=[LATE], resume=True)
    assert_same(folder, expected)
    assert (folder / "curves.json").read_text() == (expected / "curves.json").read_text()


class KillHook(runs.KillHook):
    runs_late = True


@pytest.mark.parametrize("model", ["test_efficientnet_gn", "test_efficientnet"], ids=["group-norm", "batch-norm"])
def test_a_nan_leaves_what_it_leaves_at_once(tmp_path, model):
    model = (runs.RESNET[0], f"model.backbone.name={model}")
    poison = dict(type=f"{__name__}.PoisonInputHook", iteration=9)
    said = []
    for name, hooks in (("once", [poison]), ("late", [LATE, poison])):
        folder = train(tmp_path, name, model, hooks=hooks, tool=runs.train_tool, expected=1)
        lines = Path(f"{tmp_path / name}.log.err").read_text().replace(str(folder), "FOLDER").splitlines()
        said.append([line for line in lines if "Warning" not in line and not line.startswith("  ")])
    assert said[0] == said[1]
    assert "stopped at iteration 9 (epoch 2)" in said[1][0]
    assert "1 of 8 inputs not finite: digit" in said[1][0]
    assert_same(tmp_path / "late", tmp_path / "once")


class PoisonOneHook(PoisonInputHook):
    """Puts the NaN into the batch of the second process alone."""

    runs_late = True

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1:
            super().before_train_iter(runner, batch_idx, data_batch)


def test_a_nan_of_one_process_ends_all(tmp_path):
    name, *options = runs.RESNET[0], "model.backbone.name=test_efficientnet_gn"
    port, hooks = runs.free_port(), [LATE, runs.EMA, dict(type=f"{__name__}.PoisonOneHook", iteration=9)]
    ranks = [
        runs.start(runs.train_distributed_tool, tmp_path / f"log{rank}", name, tmp_path / "run", rank, 2, port,
                   *options, *OPTIONS, "train_dataloader.batch_size=4", hooks=hooks)
        for rank in range(2)
    ]  # fmt: skip
    for rank, process in enumerate(ranks):
        runs.finish(process, tmp_path / f"log{rank}", expected=1)
        said = Path(f"{tmp_path}/log{rank}.err").read_text()
        assert "stopped at iteration 9 (epoch 2)" in said
        assert "in process 1: the loss is nan" in said
        assert "1 of 4 inputs not finite: digit" in said
    state = runs.last_state(tmp_path / "run")
    assert state["meta"]["iter"] == 8
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())


def late_wrapper(model, **options):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    wrapper = GuardedOptimWrapper(optimizer, clip_grad=dict(max_norm=0.5), **options)
    wrapper.late = True
    return wrapper


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_bad_update_is_left_out_before_the_host_knows(bad, dtype):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    wrapper = late_wrapper(model, dtype=dtype)
    inputs = torch.tensor([[1.0, -2.0, 3.0]])

    def update(worse=0.0):
        wrapper.update_params(model(inputs).square().sum() + worse)
        checks, wrapper.checks = wrapper.checks, None
        return checks, [float(value) for value in checks.scalars()]

    wrapper.judge(*update())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = wrapper.state_dict()
    state = {"step": float(state["state"][0]["step"]), "scaler": state["loss_scaler"]}
    # At zero the square root is finite, but its slope is infinite.
    infinite_slope = (model.bias - model.bias.detach()).abs().sum().sqrt()
    checks, values = update(infinite_slope if bad == "gradient" else model.bias.sum() * torch.inf)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if bad == "gradient" and dtype == "float16":  # as with a loss scale that is too large
        wrapper.judge(checks, values)
        assert wrapper.scaler.get_scale() == state["scaler"]["scale"] / 2
        return
    with pytest.raises(NonFiniteError, match="gradient norm is" if bad == "gradient" else "loss is"):
        wrapper.judge(checks, values)
    assert len(wrapper.blamed) == 1
    assert wrapper.blamed[0] is model.bias
    after = wrapper.state_dict()
    assert {"step": float(after["state"][0]["step"]), "scaler": after["loss_scaler"]} == state


class Reads(TorchFunctionMode):
    """Notes when Python reads a value of a tensor."""

    NAMES = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "nonzero")

    def __init__(self, events):
        super().__init__()
        self.events = events

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in self.NAMES:
            self.events.append("read")
        return func(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    """Notes when torch itself reads a scalar, and when an update is queued."""

    def __init__(self, events):
        super().__init__()
        self.events = events

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if "_local_scalar_dense" in name or "is_nonzero" in name or "aten.equal" in name:
            self.events.append("read")
        elif "_fused_adamw_" in name:
            self.events.append("update")
        elif "convolution_backward" in name:
            self.events.append("gradient")
        return func(*args, **(kwargs or {}))


class WatchHook(Hook):
    """Watches what an epoch reads, and writes the events of all but its first iteration to a file."""

    runs_late = True
    priority = "HIGHEST"

    def __init__(self, path):
        self.path, self.events = path, []
        self.modes = (Reads(self.events), Operators(self.events))

    def before_train_epoch(self, runner):
        for mode in self.modes:
            mode.__enter__()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.events.append("begin")

    def after_train_epoch(self, runner):
        for mode in reversed(self.modes):
            mode.__exit__(None, None, None)
        Path(self.path).write_text(" ".join(self.events))


def test_nothing_is_read_before_the_next_iteration_is_queued(tmp_path):
    # Samples are loaded by another process, so that the events are those of the loop alone.
    options = ("train_cfg.max_epochs=1", "default_hooks.checkpoint.interval=-1", "default_hooks.non_finite.interval=99",
               "train_dataloader.num_workers=1", "model.mixup_alpha=0.8", "model.cutmix_alpha=1.0")  # fmt: skip
    watch = dict(type=f"{__name__}.WatchHook", path=str(tmp_path / "events"))
    train(tmp_path, "run", runs.RESNET, *options, hooks=[LATE, watch])
    _, first, *rest = (tmp_path / "events").read_text().split("begin")
    assert "read" not in first  # nothing is there to be read, and the loop does not wait for its own step
    assert len(rest) == 5
    for events in rest[:-1]:
        before, after = events.split("update", 1)
        assert "gradient" not in before[before.index("read") :]
        assert "read" not in after


def test_hooks_that_nobody_knows_run_at_once():
    class Mine(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            pass

    class Theirs(LoggerHook):
        def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode="train"):
            pass

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            pass

    class Known(Mine):
        runs_late = True

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            pass

    class Inherited(Known):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            pass

    class Vouched(Mine):
        runs_late = True

    hooks = [LoggerHook(), Mine(), Theirs(), Known(), Inherited(), Vouched(), Hook()]
    assert hooks_at_once(hooks) == ["Mine", "Theirs", "Inherited"]


def test_a_hook_that_may_change_the_network_keeps_the_run_at_once(tmp_path):
    poison = dict(type="runs.PoisonParameterHook", iteration=5, parameter="backbone.conv_stem.weight")
    hooks = [dict(type=f"{__name__}.AskForLateHook"), poison]
    folder = train(tmp_path, "run", runs.RESNET, hooks=hooks, tool=runs.train_tool, expected=1)
    assert "stopped at iteration 6" in Path(f"{folder}.log.err").read_text()
    (log,) = folder.glob("*/*.log")
    assert "because PoisonParameterHook may change the network" in log.read_text()


class AskForLateHook(Hook):
    runs_late = True

    def before_train(self, runner):
        runner.reports.beside = True
