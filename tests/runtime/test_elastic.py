"""torchrun's elastic launch: a machine is lost in mid-epoch and another one joins, and the run goes on each time."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import runs
import torch
from mmengine.hooks import Hook

ITERATIONS, LOST, JOINS = 12, 4, 5  # an epoch has six
OPTIONS = (
    *runs.RESNET,
    *runs.EVERYTHING_RANDOM,
    "train_dataloader.batch_size=4",
    "process_timeout=4",
    f"train_cfg.max_epochs={ITERATIONS // 6}",
)


class MachinesHook(Hook):
    """Writes down which iterations how many processes made. One machine dies, and what is left alone is slow."""

    priority = "LOWEST"

    def __init__(self, notes):
        self.notes = Path(notes)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == LOST and runner.rank == 1 and not (self.notes / "lost").exists():
            (self.notes / "lost").touch()
            os.kill(os.getppid(), signal.SIGKILL)  # torchrun's agent
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.rank:
            return
        with (self.notes / "done").open("a") as file:
            file.write(f"{runner.iter + 1} {runner.world_size}\n")
        time.sleep(2 * (runner.world_size == 1))


def worker(run, notes, options):
    from ssm_train.apis import cli

    hooks = [dict(type=f"{__name__}.MachinesHook", notes=str(notes))]
    # An epoch of the tests has a number of batches for each process. These are of the same data.
    share = f"train_dataloader.num_batch_per_epoch={12 // int(os.environ['WORLD_SIZE'])}"
    settings = dict(hooks=hooks, launcher="pytorch", resume=True, keep_updates=True)
    sys.exit(cli.run(lambda: runs.train(options[0], run, *options[1:], share, **settings)))


def machine(port, name, run, notes, options):
    """Run the agent that torchrun runs on a machine, with one process. Its processes need not import anything.

    A busy test machine imports for many seconds, and the agents wait for others for one. So they begin together.
    """
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    (notes / f"{name} is ready").touch()
    if name == "first":  # it has the meeting point
        wait_until((notes / "second is ready").exists)
    else:
        wait_until(lambda: answers(port))
    if name == "third":
        wait_until((notes / "third may join").exists)
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # a machine that joins later would wait for ever without
    quick = dict(last_call_timeout=1, keep_alive_interval=1, keep_alive_max_attempt=6)
    config = LaunchConfig(
        min_nodes=1, max_nodes=2, nproc_per_node=1, run_id="elastic", rdzv_backend="c10d", max_restarts=3,
        rdzv_endpoint=f"127.0.0.1:{port}", rdzv_configs=quick, monitor_interval=0.1, start_method="fork",
    )  # fmt: skip
    elastic_launch(config, worker)(run, notes, options)


def wait_until(is_so):
    end = time.monotonic() + 300  # only where something is wrong, as other work may slow the machine
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def answers(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def is_made(done, iteration, processes, machines):
    assert machines[0].exitcode is None
    return done.exists() and f"{iteration} {processes}\n" in done.read_text()


def test_a_machine_is_lost_and_one_joins(tmp_path):
    """The weights are those of a run that two processes made without a break."""
    port, reference = runs.free_port(), tmp_path / "reference"
    ranks = [
        (runs.start(runs.train_distributed_tool, log, OPTIONS[0], reference, rank, 2, port, *OPTIONS[1:]), log)
        for rank, log in enumerate((tmp_path / "rank0", tmp_path / "rank1"))
    ]
    for process, log in ranks:
        runs.finish(process, log)

    run, port, done = tmp_path / "run", runs.free_port(), tmp_path / "done"
    machines = [
        runs.start(machine, tmp_path / name, port, name, run, tmp_path, OPTIONS)
        for name in ("first", "second", "third")
    ]
    wait_until(lambda: is_made(done, JOINS, 1, machines))
    wait_until((tmp_path / "third is ready").exists)
    (tmp_path / "third may join").touch()
    runs.finish(machines[0], tmp_path / "first")
    runs.finish(machines[2], tmp_path / "third")
    assert machines[1].exitcode == -signal.SIGKILL

    steps = [tuple(map(int, line.split())) for line in done.read_text().splitlines()]
    assert [iteration for iteration, _ in steps] == list(range(1, ITERATIONS + 1))
    alone = [iteration for iteration, processes in steps if processes == 1]
    assert alone == list(range(LOST, alone[-1] + 1))
    assert JOINS <= alone[-1] < ITERATIONS
    states = [runs.last_state(folder) for folder in (run, reference)]
    assert [state["meta"]["iter"] for state in states] == [ITERATIONS] * 2
    assert states[0]["param_schedulers"] == states[1]["param_schedulers"]
    for name, expected in states[1]["state_dict"].items():
        torch.testing.assert_close(states[0]["state_dict"][name], expected, rtol=1e-4, atol=1e-6, msg=name)
    said = (tmp_path / "first.err").read_text()
    assert "process 1 (host" in said
    assert "has not answered" in said
