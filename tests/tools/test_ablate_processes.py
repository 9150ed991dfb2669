"""Tests of the processes of tools/ablate.py: kills, signals, and the warnings of its runs."""

import itertools
import json
import logging
import os
import re
import shutil
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
from command_line import run
from mmengine.logging.logger import MMFormatter
from PIL import Image
from short_sweeps import DIGITS, SHORT, write_study
from termcolor.termcolor import can_colorize

from ssm_train.apis.run_processes import RunProcess, Training
from ssm_train.apis.run_records import reason
from ssm_train.apis.run_warnings import described, distinct, warnings_of
from ssm_train.runtime import folder_lock


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path)


def command(*arguments):
    sys.exit(run(*arguments))


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="without setpriv nothing ends with its parent")
def test_a_run_of_its_own_process_ends_with_the_command(tmp_path):
    """It saves its state first, although the command is killed."""
    work, log = tmp_path / "runs", tmp_path / "log"
    options = [*SHORT[:1], "train_cfg.max_epochs=500", *SHORT[3:]]
    killed = runs.start(
        command, log, "ablate", DIGITS, "--work-dir", work, "--grid", "seed=0", "--cfg-options", *options
    )
    while not (curves := work / "seed=0" / "curves.json").is_file():
        assert killed.is_alive(), Path(f"{log}.err").read_text()
        time.sleep(0.05)
    threads = Path(f"/proc/{killed.pid}/task").iterdir()
    (child,) = [child for thread in threads for child in (thread / "children").read_text().split()]
    killed.kill()
    killed.join()
    ends = time.monotonic() + 60
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < ends, "the training outlives the command"
        time.sleep(0.05)
    assert curves.is_file()
    assert "stopped by SIGTERM" in (work / "seed=0" / "ablation.log").read_text()
    assert json.loads((work / "seed=0" / "ablation.json").read_text())["status"] == "waiting"


def test_a_study_that_is_killed_goes_on_with_the_same_command(tmp_path, study):
    """Two runs at a time. The runs that are done stay, no process outlives the kill, and the rest is made.

    What the others have printed is kept, and the time that they took counts.
    """
    work, log = tmp_path / "runs", tmp_path / "log"
    line = [command, log, "ablate", study, "--work-dir", work, "--at-once", "2", "--cfg-options", *SHORT]
    killed = runs.start(*line)
    while not (done := [path for path in work.glob("*/ablation.json") if '"done"' in path.read_text()]):
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
    records = {path: json.loads(path.read_text()) for path in work.glob("*/ablation.json")}
    under_way = {path: record for path, record in records.items() if record["status"] == "waiting"}
    assert under_way
    for path, record in under_way.items():
        path.write_text(json.dumps(record | {"began": record["began"] - 1000}))
        with path.with_name("ablation.log").open("a") as file:
            file.write("printed before\n")
        half_drawn = path.with_name("evaluation") / ".val_confusion.png.7.tmp"
        half_drawn.parent.mkdir(exist_ok=True)
        half_drawn.touch()
    (work / ".table.md.7.tmp").touch()

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
    for path in under_way:
        assert "printed before\n" in path.with_name("ablation.log").read_text()
        assert json.loads(path.read_text())["seconds"] > 1000
    assert not list(work.rglob(".*.tmp"))


def test_a_study_waits_for_a_run_that_outlives_its_kill(tmp_path, quick_python, capsys):
    """Its folder is locked here, as that run has it locked while it saves its state."""
    folder = tmp_path / "seed=0"
    folder.mkdir()
    lock = folder_lock.acquire(folder)

    def end():
        log = folder / "ablation.log"
        while not log.is_file() or "waiting for the run in" not in log.read_text():
            time.sleep(0.05)
        folder_lock.release(lock)

    threading.Thread(target=end, daemon=True).start()
    try:
        assert run("ablate", DIGITS, "--work-dir", tmp_path, "--grid", "seed=0", "--cfg-options", *SHORT) == 0
    finally:
        folder_lock.release(lock)
    assert "[1/1] seed=0 done" in capsys.readouterr().out


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
