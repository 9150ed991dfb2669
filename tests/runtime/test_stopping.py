"""A signal makes a training save and end with status 75. Resumed, it ends with the weights of an uninterrupted one."""

import contextlib
import itertools
import multiprocessing
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest
import runs
from command_line import ROOT
from mmengine.hooks import Hook

from ssm_train.apis.cli import STOPPED
from ssm_train.runtime import stopping

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP")
PARTS = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")
# The 16 validation images of the digits are two batches.
VALIDATION = ("val_dataloader.num_batch_per_epoch=3", "val_dataloader.batch_size=8")
OPTIONS = (*runs.RESNET, *runs.EVERYTHING_RANDOM, *VALIDATION, "train_dataloader.num_workers=1")


def send(name, seconds=0.0):
    """Send a signal as launchers do: from another process, to this one and to the workers of its data loaders."""
    time.sleep(seconds)
    processes = [child.pid for child in multiprocessing.active_children()] + [os.getpid()]
    subprocess.run(["kill", f"-{name[3:]}", *map(str, processes)], check=True)


class SignalHook(Hook):
    """Sends a signal in the given training iteration, or after the given batch of the first validation."""

    def __init__(self, name, iteration=None, validation_batch=None, again_after=None, rank=0):
        self.name, self.iteration, self.validation_batch = name, iteration, validation_batch
        self.again_after, self.rank = again_after, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration and runner.rank == self.rank:
            send(self.name)
            if self.again_after is not None:
                send(self.name, self.again_after)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == self.validation_batch and runner.epoch == 1:
            send(self.name)


def hook(*arguments, **options):
    return dict(type=f"{SignalHook.__module__}.SignalHook", name=arguments[0], **options)


def heed_and_train(*arguments, **options):
    """Train with the default answers to signals: a shell starts background jobs with SIGINT ignored."""
    for name in SIGNALS:
        signal.signal(getattr(signal, name), signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    runs.train_tool(*arguments, **options)


def stop(log, run, *options, hooks, resume=False, expected=STOPPED):
    """Train until the signal. Return what the run said about it."""
    runs.call(heed_and_train, log, OPTIONS[0], run, *OPTIONS[1:], *options, hooks=[runs.EMA, *hooks],
              resume=resume, expected=expected)  # fmt: skip
    return Path(f"{log}.err").read_text()


def finish_and_compare(tmp_path, run, expected):
    runs.call(runs.train, tmp_path / "last.log", OPTIONS[0], run, *OPTIONS[1:], hooks=[runs.EMA], resume=True)
    states = [{part: runs.last_state(folder)[part] for part in PARTS} for folder in (run, expected)]
    assert runs.differing(*states) == []
    curves = [(folder / "curves.json").read_text() for folder in (run, expected)]
    assert curves[0] == curves[1]
    assert not list(run.glob("state_*")), "the last checkpoint has taken the place of the rotating files"


def wait_for(path, is_alive, seconds=90):
    end = time.monotonic() + seconds
    while not path.exists():
        assert is_alive(), "the run has ended"
        assert time.monotonic() < end, f"there is no {path}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    runs.call(runs.train, folder / "log", OPTIONS[0], folder / "run", *OPTIONS[1:], hooks=[runs.EMA])
    return folder / "run"


def test_every_signal_saves_and_changes_nothing(reference, tmp_path):
    """One run is stopped by all of the signals, one after the other: in mid epoch and at the end of one."""
    run = tmp_path / "run"
    for number, (name, iteration) in enumerate(zip(SIGNALS, (2, 4, 6, 8, 11), strict=True)):
        said = stop(tmp_path / name, run, hooks=[hook(name, iteration=iteration)], resume=number > 0)
        assert f"stopped by {name} after iteration {iteration} " in said
        assert f"saved in {run}: give the same command with --resume" in said
        assert "Traceback" not in said
        assert runs.last_state(run)["meta"]["iter"] == iteration
    assert [p.name for p in sorted(run.glob("state_*"))] == ["state_11.pth", "state_8.pth"], "two are kept"
    finish_and_compare(tmp_path, run, reference)


def test_a_validation_is_stopped_too(reference, tmp_path):
    run = tmp_path / "run"
    # No checkpoint is due before the validation, and so the state is saved with the averaged weights in the model.
    never = "default_hooks.checkpoint.interval=5"
    said = stop(tmp_path / "1", run, never, hooks=[hook("SIGTERM", validation_batch=0)])
    assert "stopped by SIGTERM after iteration 6 (epoch 2)" in said
    assert '"top1"' not in (run / "curves.json").read_text()
    finish_and_compare(tmp_path, run, reference)


def test_the_same_signal_again_ends_at_once(tmp_path):
    run = tmp_path / "run"
    # Ctrl-C under torchrun comes twice, from the terminal and from torchrun.
    assert "stopped by SIGINT" in stop(tmp_path / "1", run, hooks=[hook("SIGINT", iteration=2, again_after=0.1)])
    stop(
        tmp_path / "2", run, hooks=[hook("SIGINT", iteration=4, again_after=2.1)], resume=True, expected=-signal.SIGINT
    )
    assert runs.last_state(run)["meta"]["iter"] == 2


def test_signals_until_the_end_are_one_request(tmp_path):
    """They come every 0.2 ms, and so one comes at every moment from the first to the end of the process."""
    run, log = tmp_path / "run", tmp_path / "log"
    process = runs.start(heed_and_train, log, OPTIONS[0], run, *OPTIONS[1:], "train_cfg.max_epochs=500")
    wait_for(run / "epoch_1.pth", process.is_alive)
    end, names = time.monotonic() + 1.5, itertools.cycle(SIGNALS)  # after two seconds it would be another request
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.kill(process.pid, getattr(signal, next(names)))
            time.sleep(0.0002)
    runs.finish(process, log, STOPPED)
    assert list(run.glob("state_*.pth")) or runs.last_state(run)["meta"]["iter"] % 6 == 0


def test_signals_are_handled_as_before_once_a_run_was_stopped(monkeypatch):
    """Python code goes on after a run, and Ctrl-C has to end it."""
    monkeypatch.setattr(stopping, "_SAME_REQUEST", 0.2)
    before, signals, heard = signal.getsignal(signal.SIGINT), stopping.StopSignals(), []
    own = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        signals.install()
        signal.raise_signal(signal.SIGINT)
        signals.finish()
        signal.raise_signal(signal.SIGUSR1)
        assert heard == []
        time.sleep(0.3)
        signal.raise_signal(signal.SIGUSR1)
        assert heard == [signal.SIGUSR1]
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGUSR1, own)
        signal.signal(signal.SIGINT, before)


def ignore_and_train(*arguments, **options):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    runs.train_tool(*arguments, **options)


def test_nohup_is_respected(tmp_path):
    runs.call(ignore_and_train, tmp_path / "log", OPTIONS[0], tmp_path / "run", *OPTIONS[1:],
              "train_cfg.max_epochs=1", hooks=[hook("SIGHUP", iteration=2)])  # fmt: skip


def train_unheard(kind, *arguments, **options):
    """Train where nothing can be written to stdout and stderr, as after a terminal was closed or its reader ended."""
    kept, lost = pty.openpty() if kind == "terminal" else os.pipe()
    os.close(kept)
    for descriptor in (1, 2):
        os.dup2(lost, descriptor)
    heed_and_train(*arguments, **options)


@pytest.mark.parametrize(("kind", "name"), [("terminal", "SIGHUP"), ("pipe", "SIGTERM")])
def test_nobody_has_to_hear_what_is_said(tmp_path, kind, name):
    runs.call(train_unheard, tmp_path / "log", kind, OPTIONS[0], tmp_path / "run", *OPTIONS[1:],
              hooks=[hook(name, iteration=4)], expected=STOPPED)  # fmt: skip
    assert runs.last_state(tmp_path / "run")["meta"]["iter"] == 4


def test_accumulated_gradients_are_not_cut(tmp_path):
    run = tmp_path / "run"
    said = stop(tmp_path / "1", run, "optim_wrapper.accumulative_counts=3", hooks=[hook("SIGTERM", iteration=4)])
    assert "after iteration 6" in said


class EveryIteration(Hook):
    """Makes the hook that saves by time save after every iteration, once the file before is written."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.states.wait()


def test_states_are_saved_by_time(reference, tmp_path):
    run = tmp_path / "run"
    hooks = [runs.EMA, dict(type=f"{__name__}.EveryIteration"), dict(type="runs.KillHook", iteration=9)]
    often = "default_hooks.timed_checkpoint.minutes=1e-6"
    runs.call(runs.train, tmp_path / "1", OPTIONS[0], run, *OPTIONS[1:], often, hooks=hooks, expected=-signal.SIGKILL)
    kept = {int(path.stem[6:]) for path in run.glob("state_*.pth")}
    assert kept in ({7, 8}, {8, 9}), "the last one may not have been written yet"
    assert runs.last_state(run)["meta"]["iter"] == max(kept)
    finish_and_compare(tmp_path, run, reference)


def test_both_processes_stop_at_one_iteration(tmp_path):
    """The signal reaches the second process alone."""
    port, run = runs.free_port(), tmp_path / "run"
    logs = [tmp_path / f"rank{rank}" for rank in range(2)]
    ranks = [
        runs.start(runs.train_distributed_tool, log, OPTIONS[0], run, rank, 2, port, *OPTIONS[1:],
                   hooks=[hook("SIGUSR1", iteration=3, rank=1)])
        for rank, log in enumerate(logs)
    ]  # fmt: skip
    for process, log in zip(ranks, logs, strict=True):
        runs.finish(process, log, STOPPED)
    assert "stopped by SIGUSR1 after iteration 4 " in Path(f"{logs[0]}.err").read_text()
    assert runs.last_state(run)["meta"]["iter"] == 4


def test_under_torchrun(tmp_path, quick_python):
    run = tmp_path / "run"
    options = [o for o in (*OPTIONS[1:], *runs.SMALL) if not o.startswith("train_cfg")]
    command = [ROOT / "tools" / "dist_train.sh", runs.CONFIGS / OPTIONS[0], "2", "--work-dir", run, "--cfg-options"]
    command += [*options, "train_cfg.max_epochs=500"]
    environment = {**os.environ, "PYTHON": quick_python, "MASTER_PORT": str(runs.free_port())}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    wait_for(run / "epoch_1.pth", lambda: process.poll() is None or pytest.fail(process.communicate()[1]))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == STOPPED, said
    assert "stopped by SIGTERM" in said
    assert "Traceback" not in said
    assert list(run.glob("state_*.pth")) or runs.last_state(run)["meta"]["iter"] % 6 == 0
