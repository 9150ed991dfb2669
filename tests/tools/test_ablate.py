"""Tests of tools/ablate.py: the grid, the runs and the table."""

import csv
import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import runs
from command_line import CONFIGS, error_of, run
from mmengine.logging.logger import MMFormatter
from PIL import Image
from termcolor.termcolor import can_colorize

from ssm_core.errors import ConfigError
from ssm_train.apis.run_processes import RunProcess, Training, environments
from ssm_train.apis.run_warnings import described, distinct, warnings_of
from ssm_train.apis.sweep import Outcome, as_markdown, combinations, folder_names, parse_grid, short_names
from ssm_train.apis.sweep_runs import reason

DIGITS = CONFIGS / "resnet" / "resnet18_digits.py"
SHORT = ["model.backbone.name=test_efficientnet_gn", "train_cfg.max_epochs=1", "train_dataloader.num_batch_per_epoch=2"]
SHORT += ["visualizer.tensorboard=False", "default_hooks.curves.plot=False", "default_hooks.pictures.count=0"]
SHORT += ["val_dataloader.num_batch_per_epoch=1"]


def test_grid():
    grid = parse_grid(["model.backbone.dims=(8,16),[8,32]", "seed=0,1"])
    assert grid == {"model.backbone.dims": ["(8,16)", "[8,32]"], "randomness.seed": ["0", "1"]}
    runs = combinations(grid)
    assert [list(settings.values()) for settings in runs][1:3] == [["(8,16)", "1"], ["[8,32]", "0"]]
    assert folder_names(runs) == ["dims=8-16,seed=0", "dims=8-16,seed=1", "dims=8-32,seed=0", "dims=8-32,seed=1"]


def test_names_are_as_long_as_they_must_be():
    keys = ["train_dataloader.batch_size", "val_dataloader.batch_size", "optim_wrapper.optimizer.lr"]
    assert list(short_names(keys).values()) == ["train_dataloader.batch_size", "val_dataloader.batch_size", "lr"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["lr"], "takes KEY=A,B,C"),
        (["lr=1,,2"], "takes KEY=A,B,C"),
        (["seed=1", "randomness.seed=2"], "names randomness.seed twice"),
        (["seed=1,1"], "a value is there twice"),
    ],
)
def test_faulty_grids(entries, message):
    with pytest.raises(ConfigError, match=message):
        parse_grid(entries)


def test_values_that_look_alike_as_folders():
    with pytest.raises(ConfigError, match="cannot name two runs"):
        folder_names(combinations({"a": ["(1,2)", "[1,2]"]}))


def test_table_over_seeds():
    def outcome(order, seed, status, last=None, error=""):
        settings = {"model.backbone.token_order": order, "randomness.seed": seed}
        best = None if last is None else last + 1
        return Outcome(settings, f"{order}{seed}", status, 1_500_000, last, best, 3, 100.0, error)

    table = as_markdown(
        [
            outcome("quadtree", "0", "done", 90.0),
            outcome("quadtree", "1", "done", 92.0),
            outcome("quadtree", "2", "failed", error="training stopped at iteration 3"),
            outcome("released", "0", "done", 80.0),
            outcome("released", "1", "waiting"),
            outcome("raster", "0", "waiting"),
        ],
        "quadmamba",
        "top1",
    )
    assert "| token_order | seeds | top1, last | top1, best | parameters | time |" in table
    assert "| quadtree | 2 of 3 | 91 ± 1.4 | 92 ± 1.4 | 1.500 M | 1 min 40 s |" in table
    assert "| released | 1 of 2 | 80 | 81 | 1.500 M | 1 min 40 s |" in table
    assert "| raster | 0 of 1 | waiting |  | 1.500 M |  |" in table
    assert table.endswith("- **quadtree2** failed: training stopped at iteration 3\n")


def ablate(folder, *options):
    return ["ablate", DIGITS, "--work-dir", folder, *options, "--cfg-options", *SHORT]


def test_a_run_of_the_engine_is_tabulated_and_kept(tmp_path, quick_python, capsys):
    grid = ["--grid", "train_dataloader.batch_size=4"]
    assert run(*ablate(tmp_path, *grid)) == 0
    curve = json.loads((tmp_path / "batch_size=4" / "curves.json").read_text())["val"]
    (row,) = csv.DictReader((tmp_path / "table.csv").open())
    assert row["status"] == "done"
    assert [float(row[key]) for key in ("last", "best", "best_after")] == [curve[-1]["top1"]] * 2 + [1]
    assert int(row["parameters"]) > 1_000
    assert f"| 4 | {curve[-1]['top1']:.4g} |" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "table.json").read_text())["runs"][0]["settings"] == {
        "train_dataloader.batch_size": "4"
    }

    # The same command again leaves the finished run as it is.
    checkpoint = tmp_path / "batch_size=4" / "epoch_1.pth"
    before = checkpoint.stat().st_mtime_ns
    capsys.readouterr()
    assert run(*ablate(tmp_path, *grid)) == 0
    assert checkpoint.stat().st_mtime_ns == before
    assert "[1/1] batch_size=4 done" in capsys.readouterr().out
    line = error_of(capsys, *ablate(tmp_path, "--amp", *grid))
    assert "holds a run with other settings" in line


def test_a_misspelt_key_stops_before_anything_runs(tmp_path, capsys):
    line = error_of(capsys, *ablate(tmp_path / "none", "--grid", "train_dataloader.batchsize=4"))
    assert "did you mean 'batch_size'" in line
    assert not (tmp_path / "none").exists()


def test_a_seed_that_is_none_stops_before_anything_runs(tmp_path, capsys):
    line = error_of(capsys, *ablate(tmp_path / "none", "--grid", "seed=0,some"))
    assert "randomness.seed" in line
    assert not (tmp_path / "none").exists()


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Install a queue that records what is submitted. The job of seed 1 fails until a file ``mended`` exists."""
    (tmp_path / "sbatch").write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/submitted
case "$*" in *seed=1) [ -e {tmp_path}/mended ] || {{ echo "error: no GPU is left" >&2; exit 1; }};; esac
"""
    )
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return lambda: sorted((tmp_path / "submitted").read_text().splitlines())


def test_submits_to_slurm_and_survives_a_failed_run(tmp_path, slurm, capsys):
    grid = ["--partition", "gpu", "--grid", "seed=0,1,2"]
    line = error_of(capsys, *ablate(tmp_path / "runs", *grid))
    assert line == "error: 1 of 3 runs failed; the same command tries them again"
    for seed, submitted in enumerate(slurm()):
        assert submitted.startswith("--partition gpu ")
        assert f"slurm_job.sh {DIGITS} --work-dir {tmp_path}/runs/seed={seed} --cfg-options" in submitted
        assert submitted.endswith(f"randomness.seed={seed}")
    table = (tmp_path / "runs" / "table.md").read_text()
    assert "| 2 of 3 | – | – |" in table, "jobs that left no curves have no figures"
    assert table.endswith("- **seed=1** failed: no GPU is left\n")

    (tmp_path / "mended").touch()
    line = error_of(capsys, *ablate(tmp_path / "runs", *grid))
    assert line == "error: there is nothing to compare: no validation of the 3 runs measured top1"
    assert len(slurm()) == 4, "the failed run alone was tried again"
    assert "failed" not in (tmp_path / "runs" / "table.md").read_text()


STUDY = """
seeds: [0, 1]
tables:
  sizes:
    config: {config}
    cells:
      "four": {{train_dataloader.batch_size: 4}}
      "eight": {{train_dataloader.batch_size: 8}}
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "sizes.yaml"
    path.write_text(STUDY.format(config=DIGITS))
    return path


def command(*arguments):
    sys.exit(run(*arguments))


def test_a_study_that_is_killed_goes_on_with_the_same_command(tmp_path, study):
    """Two runs at a time. The runs that are done stay, no process outlives the kill, and the rest is made."""
    work, log = tmp_path / "runs", tmp_path / "log"
    line = [command, log, "ablate", study, "--work-dir", work, "--at-once", "2", "--cfg-options", *SHORT]
    killed = runs.start(*line)
    while not (done := list(work.glob("*/ablation.json"))):
        assert killed.is_alive(), Path(f"{log}.err").read_text()
        time.sleep(0.05)
    threads = Path(f"/proc/{killed.pid}/task").iterdir()
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    assert len(children) >= 2
    killed.kill()
    killed.join()
    ends = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < ends, "a process of the study outlives it"
        time.sleep(0.05)
    times = {path: path.stat().st_mtime_ns for path in done}

    again = runs.start(*line)
    again.join()
    assert again.exitcode == 0, Path(f"{log}.err").read_text()
    assert "[4/4]" in log.read_text()
    assert {path: path.stat().st_mtime_ns for path in done} == times
    known = json.loads((work / "table.json").read_text())["cells"]
    assert [(cell["name"], [run["seed"] for run in cell["runs"]]) for cell in known] == [
        ("four", [0, 1]),
        ("eight", [0, 1]),
    ]
    for cell in known:
        for run_of in cell["runs"]:
            curve = json.loads((work / run_of["folder"] / "curves.json").read_text())["val"]
            assert (run_of["status"], run_of["last"]) == ("done", curve[-1]["top1"])
    assert known[1]["comparison"]["pairs"] == 2


def test_a_folder_has_one_study_at_a_time(tmp_path, study, capsys):
    """The lock is that of another process, as a second command has it."""
    work = tmp_path / "runs"
    work.mkdir()
    code = "import sys; from pathlib import Path; from ssm_train.runtime.folder_lock import acquire\n"
    code += "acquire(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code, work], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"locked\n"
        line = error_of(capsys, "ablate", study, "--work-dir", work, "--at-once", "2", "--cfg-options", *SHORT)
        assert line.startswith(f"error: another run is going on in {work} (host ")
        assert f"pid {other.pid})" in line
        assert [path.name for path in work.iterdir()] == [".lock"], "nothing was run"
    finally:
        other.communicate()


@pytest.fixture(scope="module")
def process():
    process = RunProcess({"TREE_SSM_TEST": "here"})
    yield process
    process.end()


def test_a_run_whose_process_dies_takes_no_other_with_it(process, tmp_path):
    log = tmp_path / "log"
    log.touch()
    config = tmp_path / "dies.py"
    config.write_text("import os\nif os.environ['TREE_SSM_TEST'] == 'here':\n    os.kill(os.getpid(), 9)\n")
    died = process.train(Training(str(config), (), str(tmp_path / "run"), False, False), log)
    assert died.status == 1
    assert reason(died.status, log) == "the process of this run died"
    other = process.train(Training(str(DIGITS), ("model.backbone.nam=1",), str(tmp_path), False, False), log)
    assert "did you mean 'name'" in reason(other.status, log), "a new process says what is wrong"


def test_a_process_whose_run_was_stopped_can_be_stopped_again(process, tmp_path):
    """The command line ignores signals once one has stopped a training. That is for processes that end."""
    folder, log, pid, handlers = (tmp_path / name for name in ("run", "log", "pid", "handlers"))
    log.touch()
    stopped, other = tmp_path / "stopped.py", tmp_path / "other.py"
    noted = f"import os\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ndel os\n"
    stopped.write_text(f"_base_ = {str(DIGITS)!r}\n{noted}")
    handler = "[signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]"
    other.write_text(f"import signal\nopen({str(handlers)!r}, 'w').write(repr({handler}))\n")

    def stop():
        while not (folder / "epoch_1.pth").exists():
            time.sleep(0.02)
        os.kill(int(pid.read_text()), signal.SIGTERM)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    options = (*(option for option in SHORT if "max_epochs" not in option), "train_cfg.max_epochs=500")
    made = process.train(Training(str(stopped), options, str(folder), False, False), log)
    assert "stopped by SIGTERM" in reason(made.status, log)
    process.train(Training(str(other), (), str(tmp_path / "other"), False, False), log)
    assert handlers.read_text() == repr([signal.SIG_DFL, signal.SIG_DFL])


LONG = (*(option for option in SHORT if "max_epochs" not in option), "train_cfg.max_epochs=5000")


@pytest.mark.parametrize(("number", "at_once"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_signal_to_the_command_alone_stops_its_runs(tmp_path, request, number, at_once):
    """It is not sent to the group, as a terminal does. Given again, the command goes on from what the runs saved.

    The latter is shown where the processes start fast: runs side by side import everything for themselves.
    """
    python = sys.executable if at_once else request.getfixturevalue("quick_python")
    line = [python, "-m", "ssm_train.commands", "ablate", DIGITS, "--grid", "seed=0,1,2", "--work-dir", tmp_path]
    line += [*["--at-once", "2"] * at_once, "--cfg-options", *LONG]
    first = 2 if at_once else 1  # runs that begin
    reached = [0] * first
    for attempt in range(1 if at_once else 2):
        command = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        folders = [tmp_path / f"seed={seed}" for seed in range(first)]
        ends = time.monotonic() + 240
        while not all(newest(folder) > before for folder, before in zip(folders, reached, strict=True)):
            assert command.poll() is None, command.communicate()
            assert time.monotonic() < ends
            time.sleep(0.05)
        command.send_signal(number)
        said, complained = command.communicate(timeout=120)
        assert command.returncode == 75, complained
        words = f"stopped by {number.name} with 0 of 3 runs done, and those under way have saved their state"
        assert complained == f"{words}: give the same command to go on\n"
        assert said.splitlines() == [f"3 runs in {tmp_path}; each one's output is in its ablation.log"]
        logs = [(folder / "ablation.log").read_text() for folder in folders]
        assert all(f"stopped by {number.name} after iteration" in log for log in logs)
        assert ["resumed" in log for log in logs] == [attempt == 1] * first
        assert not (tmp_path / "seed=2").exists() or first == 1, "no other run begins"
        assert "failed" not in (tmp_path / "table.md").read_text()
        reached = [newest(folder) for folder in folders]


def newest(folder):
    """The number of iterations in the newest state of a run, 0 if there is none."""
    found = [
        path.stem.partition("_")[2] for path in folder.glob("*.pth") if re.fullmatch(r"(epoch|state)_\d+", path.stem)
    ]
    return max(map(int, found), default=0)


@pytest.fixture
def unreadable(tmp_path):
    """A config of images of which one cannot be read, and in which a rate of 0 is noticed."""
    draw = np.random.default_rng(0)
    for split, label, number in itertools.product(("train", "val"), "ab", range(4)):
        path = tmp_path / "images" / split / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    (tmp_path / "images" / "train" / "a" / "1.png").write_bytes(b"no image")
    config = tmp_path / "unreadable.py"
    config.write_text(f"""
_base_ = "ssm_train::quadmamba/quadmamba-tiny_image-folder.py"
data = dict(dataset=dict(root={str(tmp_path / "images")!r}, transform=dict(size=32)), batch_size=4, num_workers=0,
            persistent_workers=False)
model = dict(backbone=dict(num_classes=2, depths=(1, 1, 1, 1), dims=(8, 16, 16, 16), drop_path_rate=0.0))
train_dataloader, val_dataloader, test_dataloader = data, data, data
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(optimizer=dict(lr=0.0))
visualizer = dict(tensorboard=False)
default_hooks = dict(curves=dict(plot=False), pictures=dict(count=0))
""")
    return config


@pytest.mark.parametrize("at_once", [True, False])
def test_warnings_of_the_runs_are_told_once(tmp_path, unreadable, quick_python, capfd, at_once):
    """Also again for runs that are kept."""
    work = tmp_path / "runs"
    line = ["ablate", unreadable, "--work-dir", work, *["--at-once", "1"] * at_once]
    line += ["--grid", "seed=0,1"]
    for _ in range(2):
        assert run(*line) == 0
        said = capfd.readouterr().out
        assert said.count("Warnings of the runs:") == 1
        told = [words for words in said.partition("Warnings of the runs:\n")[2].splitlines() if words.startswith("- ")]
        log = work / "seed=0" / "ablation.log"
        bad = f"cannot use the image {tmp_path / 'images'}/train/a/1.png (it is no image): training on the next one in "
        assert told.count(f"- {bad}its place (2 of 2 runs, first in {log})") == 1
        zero = "- optim_wrapper.optimizer.lr is 0: nothing is learnt, unless a schedule sets a rate"
        assert told.count(f"{zero} (2 of 2 runs, first in {log})") == 1
        assert len(told) == len({words.rpartition(" (")[0] for words in told})
    for log in work.glob("*/ablation.log"):
        assert "no checkpoint to resume from" not in log.read_text()
        # How a process was started is no choice of the user's.
        assert not at_once or "start method" not in log.read_text()


@pytest.fixture
def colours(monkeypatch):
    """Call it to let loggers colour their lines also in files."""

    def begin():
        monkeypatch.setenv("FORCE_COLOR", "1")
        can_colorize.cache_clear()

    yield begin
    monkeypatch.undo()
    can_colorize.cache_clear()


def test_what_is_a_warning_in_a_log(tmp_path, colours):
    """The lines have the forms of mmengine's logger, without colours and with them, and of Python."""
    logs = [tmp_path / name / "log" for name in ("one", "two")]
    for number, log in enumerate(logs):
        log.parent.mkdir()
        if number:
            colours()
        logger = logging.Logger("mmengine")
        logger.addHandler(handler := logging.FileHandler(log))
        handler.setFormatter(MMFormatter(color=True, datefmt="%m/%d %H:%M:%S"))
        logger.info("nothing")
        for _ in range(2):
            logger.warning(f"left out - in {log.parent}\nand more")
        logger.error("not saved")
        exec('logger.error("not saved outside a function")', {"logger": logger})
        handler.close()
        own = "other" if number else f"in {log.parent} alone"
        with log.open("a") as file:
            file.write(warnings.formatwarning("old", DeprecationWarning, __file__, 1))
            file.write(warnings.formatwarning(own, UserWarning, __file__, 2))
            file.write("Warning: of a program\n")
    first = f"left out - in {tmp_path / 'one'}"
    assert ["\x1b" in log.read_text() for log in logs] == [False, True]
    found = [first, "not saved", "not saved outside a function", "DeprecationWarning: old"]
    found.append(f"UserWarning: in {tmp_path / 'one'} alone")
    assert list(warnings_of(logs[0])) == found
    told = {warned.text: (warned.runs, warned.log) for warned in distinct([*logs, tmp_path / "none" / "log"])}
    assert told == {
        **dict.fromkeys(found[:4], (2, logs[0])), found[4]: (1, logs[0]), "UserWarning: other": (1, logs[1])
    }  # fmt: skip
    assert described(logs)[1] == f"- {first} (2 of 2 runs, first in {logs[0]})"
    assert described([tmp_path / "none"]) == []


def test_processes_share_the_gpus_and_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = environments(5, ["0", "3"])
    assert [own["CUDA_VISIBLE_DEVICES"] for own in found] == ["0", "3", "0", "3", "0"]
    assert {own["OMP_NUM_THREADS"] for own in found} == {str(max(1, len(os.sched_getaffinity(0)) // 5))}
    assert "CUDA_VISIBLE_DEVICES" not in environments(2, [])[0]


@pytest.mark.parametrize("line", [[DIGITS], ["study.yaml", "--grid", "seed=0,1"]])
def test_a_config_has_a_grid_and_a_study_has_none(line, capsys):
    with pytest.raises(SystemExit):
        run("ablate", *line)
    assert "a config needs a --grid, and the file of a study takes none" in capsys.readouterr().err


def test_a_study_goes_to_slurm_as_well(tmp_path, slurm, study, capsys):
    error_of(capsys, "ablate", study, "--work-dir", tmp_path / "runs", "--partition", "gpu", "--cfg-options", *SHORT)
    submitted = slurm()
    assert len(submitted) == 4
    assert all(f"slurm_job.sh {DIGITS} --work-dir {tmp_path}/runs/" in line for line in submitted)
    ends = [f"train_dataloader.batch_size={size} randomness.seed={seed}" for size in (4, 8) for seed in (0, 1)]
    assert [line[-len(ends[0]) :] for line in submitted] == ends


def test_cells_of_two_metrics_are_not_compared(tmp_path, study, capsys):
    study.write_text(
        study.read_text().replace("{train_dataloader.batch_size: 8}", "{default_hooks.checkpoint.save_best: f1}")
    )
    line = error_of(capsys, "ablate", study, "--work-dir", tmp_path / "none", "--at-once", "2")
    assert line == "error: the runs cannot be compared: some are measured by top1, others by f1"
    assert not (tmp_path / "none").exists()
