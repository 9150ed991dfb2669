"""Training under a real Slurm: the weights are torchrun's, and a job survives signals, requeueing and a dead node."""

import os
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import language_runs
import pytest
import runs
from command_line import ROOT
from slurm_cluster import missing, running, wait_until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
OPTIONS = ("model.backbone.name=test_efficientnet", *runs.EVERYTHING_RANDOM, "train_dataloader.batch_size=4")
PYTHON = sys.executable  # in tests with quick_python, sys.executable is another one
HALVES = [option for option in runs.SMALL if "batch_size" not in option]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with running(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def beside(cluster):
    """Return what calls a function beside the tests: what only waits for Slurm then takes none of their time."""
    with ThreadPoolExecutor(2) as threads:
        yield threads.submit


@pytest.fixture(scope="module", autouse=True)
def lost_node(beside, tmp_path_factory):
    """Begin to lose a node, of a cluster of its own."""
    return beside(lose_a_node, tmp_path_factory.mktemp("lost"))


@pytest.fixture(scope="module", autouse=True)
def killed_job(beside, cluster, tmp_path_factory):
    """Begin to stop and kill a job in turns."""
    return beside(stop_and_kill_in_turns, cluster, tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def under_torchrun(tmp_path_factory):
    """Return the last state of a run in two processes that Slurm did not start."""
    folder, port = tmp_path_factory.mktemp("torchrun"), runs.free_port()
    ranks = [
        runs.start(runs.train_distributed, folder / str(rank), "resnet/resnet18_digits.py", folder / "run", rank, 2,
                   port, *OPTIONS)
        for rank in range(2)
    ]  # fmt: skip
    for rank, process in enumerate(ranks):
        runs.finish(process, folder / str(rank))
    return runs.last_state(folder / "run")


def submit(cluster, folder, per_node, python, *options, pause=None):
    """Submit a training of images in two processes, see :func:`submit_config`."""
    config = runs.CONFIGS / "resnet" / "resnet18_digits.py"
    return submit_config(cluster, folder, per_node, python, config, (*HALVES, *OPTIONS, *options), pause)


def submit_config(cluster, folder, per_node, python, base, options, pause=None):
    """Submit a training in two processes of an interpreter, which waits in an iteration if asked.

    Returns the number of the job.
    """
    folder.mkdir()
    hooks = f'dict(type="slurm_cluster.PauseHook", folder="{folder}", iteration={pause})' if pause else ""
    (folder / "config.py").write_text(f'_base_ = "{base}"\ncustom_hooks = [{hooks}]\n')
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    said = cluster.run(
        ROOT / "tools" / "slurm_train.sh", "debug", folder / "config.py", "--work-dir", folder / "run",
        "--cfg-options", *options,
        PYTHON=str(python), PYTHONPATH=path, GPUS="2", GPUS_PER_NODE=str(per_node), GRES="", CPUS_PER_TASK="1",
        SBATCH_OUTPUT=str(folder / "log"), SRUN_ARGS="--overcommit",
    )  # fmt: skip
    return int(re.fullmatch(r"Submitted batch job (\d+)", said)[1])


def wait_for_end(cluster, job, folder, expected="COMPLETED"):
    wait_until(lambda: cluster.state(job)[0] not in ("PENDING", "RUNNING", "COMPLETING"), "the job does not end")
    assert cluster.state(job)[0] == expected, (folder / "log").read_text()[-3000:] + cluster.report(job)


def start_now(cluster, job):
    """Start a job that went back into the queue. Slurm would wait two minutes, in which its last start ends."""
    wait_until(lambda: not cluster.has_processes(job), "processes of the last start do not end")
    time.sleep(2)  # a node refuses a start in the second in which it has ended the job
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")


def wait_for_pause(folder):
    wait_until(lambda: (folder / "waits_0").exists() and (folder / "waits_1").exists(), "no pause")


def assert_same(folder, expected):
    parts = ("state_dict", "optimizer", "param_schedulers")
    states = [{part: state[part] for part in parts} for state in (runs.last_state(folder / "run"), expected)]
    assert runs.differing(*states) == []


def test_two_processes_of_one_node(cluster, under_torchrun, quick_python, tmp_path):
    folder = tmp_path / "job"
    wait_for_end(cluster, submit(cluster, folder, 2, quick_python), folder)
    assert_same(folder, under_torchrun)


def test_a_job_is_stopped_in_mid_epoch_and_resumes_itself(cluster, under_torchrun, quick_python, tmp_path):
    """The processes are on two nodes. Slurm sends the same signal before a job's time ends."""
    folder = tmp_path / "job"
    job = submit(cluster, folder, 1, quick_python, pause=3)
    wait_for_pause(folder)
    assert cluster.run("scancel", "--signal=USR1", job) == ""
    (folder / "go").touch()
    wait_until(lambda: cluster.state(job)[0] == "PENDING", "it does not go back into the queue")
    assert "stopped by SIGUSR1 after iteration" in (folder / "log").read_text()
    assert 3 <= runs.last_state(folder / "run")["meta"]["iter"] <= 5
    start_now(cluster, job)
    wait_for_end(cluster, job, folder)
    assert "Restarts=1" in cluster.run("scontrol", "show", "job", job)
    assert_same(folder, under_torchrun)


def test_sharded_weights_on_two_nodes(cluster, lm_folder, quick_python, tmp_path):
    options = [*language_runs.options_for(lm_folder), "sharding.param_dtype=float32"]
    job = submit_config(cluster, tmp_path / "job", 1, quick_python, language_runs.CONFIG, options)
    language_runs.train_two(tmp_path / "two", options)
    wait_for_end(cluster, job, tmp_path / "job")
    assert "NodeList=n[1-2]" in cluster.run("scontrol", "show", "job", job)
    assert_same(tmp_path / "job", runs.last_state(tmp_path / "two"))


def test_a_grid_runs_on_a_partition(cluster, quick_python, tmp_path):
    arguments = ["--grid", "seed=0,1", "--work-dir", tmp_path / "grid", "--partition", "debug", "--cfg-options"]
    said = cluster.run(
        quick_python, ROOT / "tools" / "ablate.py", runs.CONFIGS / "resnet" / "resnet18_digits.py", *arguments,
        *HALVES, "model.backbone.name=test_efficientnet", PYTHONPATH=str(ROOT), GPUS="1", GRES="", CPUS_PER_TASK="1",
    )  # fmt: skip
    table = (tmp_path / "grid" / "table.md").read_text()
    assert "±" in table, f"{said}\n{table}"
    for seed in (0, 1):
        assert f"seed={seed} done, top1" in said
        assert "Submitted batch job" in (tmp_path / "grid" / f"seed={seed}" / "ablation.log").read_text()


def test_a_job_whose_process_fails_is_not_queued_again(cluster, quick_python, tmp_path):
    folder = tmp_path / "job"
    job = submit(cluster, folder, 1, quick_python, pause=3)
    wait_for_pause(folder)
    (folder / "go.new").write_text("1")
    (folder / "go.new").rename(folder / "go")
    wait_for_end(cluster, job, folder, "FAILED")
    assert "Restarts=0" in cluster.run("scontrol", "show", "job", job)
    assert "this process fails" in (folder / "log").read_text()
    assert runs.last_state(folder / "run")["meta"]["iter"] == 2


# Takes the place of the training. Its first and third start end as after a signal, when the state is saved. The others
# are killed.
STOPPED_OR_KILLED = """#!/bin/bash
case ${SLURM_RESTART_COUNT:-0} in 0 | 2) exit 75 ;; *) kill -KILL $$ ;; esac
"""


def waits_again(cluster, job, restarts):
    return cluster.state(job)[0] == "PENDING" and f"Restarts={restarts} " in cluster.run("scontrol", "show", "job", job)


def stop_and_kill_in_turns(cluster, folder):
    """Run a job with one restart allowed: stopped, killed, stopped, and killed again, which ends the job."""
    program = folder / "python"
    program.write_text(STOPPED_OR_KILLED)
    program.chmod(0o755)
    said = cluster.run(
        PYTHON, "-m", "ssm_train.commands", "slurm-train", "debug", "resnet/resnet18_digits",
        PYTHON=str(program), PYTHONPATH=str(ROOT), GPUS="1", GRES="", CPUS_PER_TASK="1", MAX_RESTARTS="1",
        SBATCH_OUTPUT=str(folder / "log"),
        SBATCH_ARGS="--comment 'of mine'",
    )  # fmt: skip
    job = int(re.fullmatch(r"Submitted batch job (\d+)", said)[1])
    for restarts in range(1, 4):
        wait_until(lambda n=restarts: waits_again(cluster, job, n), "it does not go back into the queue")
        start_now(cluster, job)
    wait_for_end(cluster, job, folder, "FAILED")
    return cluster.run("scontrol", "show", "job", job), (folder / "log").read_text()


def test_only_kills_count_as_restarts(killed_job):
    shown, log = killed_job.result()
    assert "Comment=of mine; killed 1 times" in shown
    assert re.findall(r"^the step ended with (\d+)", log, re.M) == ["75", "137", "75", "137"]


# What the training says whose other process has died.
SAVED = re.compile(r"after iteration 2: process 1 \(host \S+, pid \d+\) has not answered .* state of iteration 2 is")


def lose_a_node(folder):
    """Kill all that runs on a node in an iteration. Wait until the job is queued again, and return its last state."""
    with running(folder / "cluster") as cluster:
        job = submit(cluster, folder / "job", 1, PYTHON, "process_timeout=10", pause=3)
        wait_for_pause(folder / "job")
        victim = int((folder / "job" / "waits_1").read_text())
        step = int(Path(f"/proc/{victim}/stat").read_text().rpartition(")")[2].split()[1])
        for process in (cluster.daemons["n2"].pid, step, victim):
            os.kill(process, signal.SIGKILL)
        (folder / "job" / "go").touch()
        log = folder / "job" / "log"
        wait_until(lambda: SAVED.search(log.read_text()), "the other process does not end")
        state = runs.last_state(folder / "job" / "run")
        wait_until(lambda: "Restarts=1" in cluster.run("scontrol", "show", "job", job), "it is not queued again")
        cluster.run("scancel", job)
        return state


def test_a_node_that_dies(lost_node):
    """The other process ends and says why, with a state saved, and Slurm queues the job again."""
    assert lost_node.result()["meta"]["iter"] == 2
