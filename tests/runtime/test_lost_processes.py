"""A process or a loader's worker that dies, hangs or fails ends the run in all processes, named, with a state saved."""

import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import runs
import torch
from mmengine.hooks import Hook

from ssm_train.apis.cli import STOPPED
from ssm_train.runtime.rescue import RescueHook

PARTS = ("state_dict", "optimizer", "param_schedulers")
# The network has batch norms, whose statistics change in the forward pass that never ends.
OPTIONS = (
    *runs.RESNET,
    *runs.EVERYTHING_RANDOM,
    "train_dataloader.batch_size=4",
    "process_timeout=6",
    "default_hooks.curves.interval=2",
)
WORKER = ("train_dataloader.num_workers=1", "train_dataloader.timeout=3")


def kill_workers(number=signal.SIGKILL):
    for child in multiprocessing.active_children():
        os.kill(child.pid, number)


def kill_workers_and_wait(optimizer, args, kwargs):
    kill_workers()
    time.sleep(1)


class HarmHook(Hook):
    """Does something to one of the processes in iteration 4, or to the workers of its loader in iteration 2."""

    runs_late = True

    def __init__(self, harm, rank):
        self.harm, self.rank, self.kills = harm, rank, False

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        # A worker is two batches ahead, and an epoch has six.
        iteration = 2 if self.harm.startswith("worker") else 4
        if runner.iter + 1 != iteration or runner.rank != self.rank:
            return
        time.sleep(1)  # until the other process has come here, too
        if self.harm == "nan":
            data_batch["inputs"][-1, 0, 0, 0] = float("nan")
        elif self.harm == "raise":
            raise ValueError("no luck")
        elif self.harm == "worker SIGKILL in the update":
            runner.optim_wrapper.optimizer.register_step_pre_hook(kill_workers_and_wait)
        elif self.harm == "worker SIGKILL in the hooks":
            self.kills = True
        elif self.harm.startswith("worker "):
            kill_workers(getattr(signal, self.harm.split()[1]))
        else:
            os.kill(os.getpid(), getattr(signal, self.harm))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.kills and runner.iter + 1 == 2:
            kill_workers()
            time.sleep(1)


def start(tmp_path, name, run, *options, harm=None, rank=0):
    port = runs.free_port()
    hooks = [dict(type=f"{__name__}.HarmHook", harm=harm, rank=rank)] if harm else []
    logs = [tmp_path / f"{name}{rank}" for rank in range(2)]
    return [
        (runs.start(runs.train_distributed_tool, log, OPTIONS[0], run, number, 2, port, *OPTIONS[1:], *options,
                    hooks=hooks, resume=run.exists()), log)
        for number, log in enumerate(logs)
    ]  # fmt: skip


def harmed(tmp_path, run, harm, rank, *options):
    """Return the processes, the one that was not harmed first, and what each said."""
    ranks = start(tmp_path, "harmed", run, *options, harm=harm, rank=rank)
    (well, log), (ill, ill_log) = ranks[1 - rank], ranks[rank]
    well.join(100)
    ended = well.exitcode
    if harm == "SIGSTOP":
        os.kill(ill.pid, signal.SIGKILL)
    ill.join(60)
    assert ended is not None, "it is still waiting"
    return (ended, Path(f"{log}.err").read_text()), (ill.exitcode, Path(f"{ill_log}.err").read_text())


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    for process, log in start(folder, "whole", folder / "run"):
        runs.finish(process, log)
    return folder / "run"


@pytest.mark.parametrize(("harm", "rank"), [("SIGKILL", 1), ("SIGSTOP", 1), ("SIGKILL", 0)])
def test_a_lost_process(reference, tmp_path, harm, rank):
    run = tmp_path / "run"
    (status, said), (_, _) = harmed(tmp_path, run, harm, rank)
    assert status == STOPPED, said
    assert re.search(
        rf"training ended after iteration 3: process {rank} \(host \S+, pid \d+\) has not answered", said
    ), said
    assert f"the state of iteration 3 is in {run}, and --resume goes on from there" in said
    assert "Traceback" not in said
    assert runs.last_state(run)["meta"]["iter"] == 3
    if rank == 0:
        return  # the second process has saved the batch norms' statistics of its own images
    for process, log in start(tmp_path, "resumed", run):
        runs.finish(process, log)
    states = [{part: runs.last_state(folder)[part] for part in PARTS} for folder in (run, reference)]
    assert runs.differing(*states) == []
    # A point of the curve has a loss from before the loss of the process, of both processes.
    curves = [json.loads((folder / "curves.json").read_text())["train"] for folder in (run, reference)]
    assert curves[0] == curves[1]


def test_the_process_that_is_left_goes_on_alone(reference, tmp_path):
    """It computes both batches of an iteration in turn, with their mixup, drop path and statistics of batch norms."""
    run, name, *options = tmp_path / "run", *OPTIONS, "train_dataloader.num_batch_per_epoch=12"
    options.append("optim_wrapper.accumulative_counts=2")
    checkpoint = reference / "epoch_1.pth"
    runs.call(runs.train, tmp_path / "log", name, run, *options, resume=checkpoint, keep_updates=True)
    assert "each process now computes 2 x 4 samples in an iteration" in (tmp_path / "log").read_text()
    states = [{part: runs.last_state(folder)[part] for part in PARTS} for folder in (run, reference)]
    assert states[0]["param_schedulers"] == states[1]["param_schedulers"]
    for key, expected in states[1]["state_dict"].items():
        torch.testing.assert_close(states[0]["state_dict"][key], expected, rtol=1e-4, atol=1e-6, msg=key)


def test_a_resumed_run_that_has_saved_nothing_names_its_checkpoint(tmp_path):
    rescue = RescueHook(60)
    rescue._updating = True
    runner = SimpleNamespace(
        iterations_of_update=1, last_iteration_saved=-1, joint_states=False, resumed_from=None, work_dir=tmp_path
    )
    assert rescue.save(runner) == "no state of this run is saved"
    runner.resumed_from = (6, tmp_path / "state_6.pth")
    words = f"nothing new is saved: the same --resume goes on from {tmp_path / 'state_6.pth'}, which has iteration 6"
    assert rescue.save(runner) == words


def test_a_process_that_fails(tmp_path):
    run = tmp_path / "run"
    (status, said), (failed, _) = harmed(tmp_path, run, "raise", 1)
    assert status == 1
    assert failed == 70, "the failed process shows its traceback"
    assert re.search(
        r"iteration 3: process 1 \(host \S+, pid \d+\) failed: ValueError: no luck; the state of iter", said
    )
    assert runs.last_state(run)["meta"]["iter"] == 3


@pytest.mark.parametrize("harm", ["worker SIGKILL", "worker SIGSTOP"])
def test_a_loaders_worker(tmp_path, harm):
    run = tmp_path / "run"
    (status, said), (own_status, own) = harmed(tmp_path, run, harm, 1, *WORKER)
    assert (status, own_status) == (1, 1), said + own
    assert "process 1" in said
    assert "failed" in said
    assert "a worker of a data loader died or gave no batch in time" in own
    assert "Traceback" not in said + own
    assert runs.last_state(run)["meta"]["iter"] in range(1, 6)


@pytest.mark.parametrize(
    ("harm", "late"),
    [
        ("worker SIGKILL", False),
        ("worker SIGKILL in the update", False),
        ("worker SIGKILL in the hooks", False),
        ("worker SIGKILL in the hooks", True),
    ],
)
def test_a_loaders_worker_of_one_process(tmp_path, harm, late):
    run, log = tmp_path / "run", tmp_path / "log"
    hooks = [dict(type=f"{__name__}.HarmHook", harm=harm, rank=0), *[dict(type="runs.LateHook")] * late]
    fused = ["optim_wrapper.optimizer.fused=True"] * late
    runs.call(runs.train_tool, log, OPTIONS[0], run, *OPTIONS[1:], *WORKER, *fused, expected=1, hooks=hooks)
    said = Path(f"{log}.err").read_text()
    assert "error: a worker of a data loader died or gave no batch in time" in said
    # The worker dies in iteration 2. The loader has no more than two batches for afterwards.
    assert runs.last_state(run)["meta"]["iter"] in range(2, 5)


def test_nan_in_one_process(tmp_path):
    run = tmp_path / "run"
    (status, said), (own_status, own) = harmed(tmp_path, run, "nan", 1)
    assert (status, own_status) == (1, 1)
    for words in (said, own):
        assert "in process 1: the loss is nan" in words
        assert re.search(r"has 1 of 4 inputs not finite: digit \d+|has 1 of 4 inputs not finite: \S+", words)
        assert "in process 0" not in words
    assert runs.last_state(run)["meta"]["iter"] == 3


def unreadable_everywhere(rank, port, folder):
    """Each process meets one bad image of its own and one that both meet."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))  # fmt: skip
    torch.distributed.init_process_group("gloo")
    from ssm_train.runtime.hooks import UnreadableImagesHook

    hook, logger = UnreadableImagesHook(), SimpleNamespace(warning=print)
    known = {"unreadable_images": ["before.png"]}
    runner = SimpleNamespace(rank=rank, logger=logger, message_hub=SimpleNamespace(runtime_info=known))
    hook.before_train(runner)
    hook.after_train_iter(runner, 0, {"data_samples": {"unreadable": {0: f"{rank}.png (cut off)", 1: "both.png"}}})
    hook.before_stop(runner)
    state = {"message_hub": {"runtime_info": {}}}
    hook.before_save_checkpoint(runner, state)
    assert len(state["message_hub"]["runtime_info"]["unreadable_images"]) == 4
    time.sleep(0.1)


def test_damaged_files_are_counted_over_all_processes(tmp_path):
    port = runs.free_port()
    ranks = [runs.start(unreadable_everywhere, tmp_path / str(r), r, port, tmp_path) for r in range(2)]
    for rank, process in enumerate(ranks):
        runs.finish(process, tmp_path / str(rank))
    said = (tmp_path / "0").read_text()
    assert "4 training images could not be used" in said
    assert "another process could not use the image 1.png (cut off)" in said
