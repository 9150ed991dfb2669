"""Trainings on full disks and in deleted folders: what is kept, what is said, and how they end."""

import functools
import logging
import time
from pathlib import Path

import bad_places
import pytest
import runs
import torch
from mmengine.logging import MMLogger

from ssm_core.weights import damage, read_file
from ssm_core.writing import WriteError

NAME, *OPTIONS = runs.RESNET
pytestmark = pytest.mark.usefixtures("own_disks")


def train(folder, *options, hooks, expected, size="60m"):
    """Train on a disk and return the printed lines, and those on stderr."""
    log, hooks = folder / "log", [dict(type=f"runs.{name}", **settings) for name, settings in hooks.items()]
    arguments = (NAME, folder / "disk", size, *OPTIONS, *options)
    runs.call(checked, log, expected, *arguments, hooks=hooks, expected=expected)
    errors = [line for line in Path(f"{log}.err").read_text().splitlines() if "start method" not in line]
    lines = [line for line in log.read_text().splitlines() if "the schedule of the learning rate" not in line]
    return lines, [line for line in errors if "warnings.warn" not in line]


def checked(expected, name, disk, *arguments, hooks):
    """Train, and check the checkpoints on the disk, which ends with this process."""
    try:
        runs.train_on_disk(name, disk, *arguments, hooks=hooks)
    except SystemExit as end:
        assert not list((disk / "run").glob(".*.tmp"))
        files = list((disk / "run").glob("*.pth"))
        assert all(damage(path) is None for path in files)
        if (disk / "run" / "epoch_1.pth").exists():
            assert list((disk / "run").glob("best_*")), "the best checkpoint is deleted before a better one is there"
        if not expected:
            assert read_file(disk / "run" / "epoch_2.pth")["meta"]["iter"] == 12
        raise SystemExit(end.code) from None


def test_a_full_disk_is_waited_for(tmp_path):
    """It is said once what is not written, and the training ends well if there is room at the end."""
    lines, errors = train(tmp_path, hooks={"FillDiskHook": dict(full=3, free=9)}, expected=0)
    assert sum("the state of iteration 6 is not saved: cannot write" in line for line in lines) == 1
    assert "epoch_1.pth: disk full: needed 1.3 MB, had 0 bytes; no state of this run is saved; the training" in lines[1]
    assert "and ends if no state is saved within 60 minutes" in lines[1]
    assert sum("evaluation/val_classes.csv: disk full" in line for line in lines) == 1
    assert "the state of iteration 12 is saved in" in lines[-1]
    assert len(lines) == 5
    # Lines of the log may still fit into its last block.
    told = ("; lines of the log are left out", " lines are missing")
    assert [line.endswith(words) for line, words in zip(errors, told, strict=False)] == [True] * len(errors), errors
    assert len(errors) in (0, 2)


def test_the_end_on_a_full_disk_is_no_success(tmp_path):
    _, errors = train(tmp_path, hooks={"FillDiskHook": dict(full=9)}, expected=1)
    assert errors[-1].startswith(
        "error: the training reached its end, but its last state and its curves.json and its best checkpoint could "
        "not be saved: cannot write"
    ), errors
    assert "; the newest saved state is that of iteration 6 in " in errors[-1]
    assert errors[-1].endswith("/run/epoch_1.pth: make room, and give the same command with --resume")
    assert not any("Traceback" in line for line in errors)


def test_patience_ends(tmp_path):
    options = ("default_hooks.timed_checkpoint.patience=0",)
    _, errors = train(tmp_path, *options, hooks={"FillDiskHook": dict(full=3)}, expected=1)
    assert errors[-1].startswith("error: training ended after iteration 7, because no state could be saved for 0 min")
    assert "state_7.pth: disk full: needed" in errors[-1]


def test_a_signal_on_a_full_disk(tmp_path):
    hooks = {"FillDiskHook": dict(full=8), "SignalHook": dict(iteration=9)}
    _, errors = train(tmp_path, hooks=hooks, expected=1)
    assert errors[-1].startswith(
        "error: stopped by SIGTERM after iteration 9, and the state is not saved: cannot write"
    )
    assert errors[-1].endswith("the newest saved state is that of iteration 6 in " + f"{tmp_path}/disk/run/epoch_1.pth")


def test_a_deleted_work_folder_is_made_anew(tmp_path):
    lines, _ = train(tmp_path, hooks={"DeleteFolderHook": dict(iteration=8)}, expected=0)
    assert any(f"the work folder {tmp_path}/disk/run was deleted and is made anew" in line for line in lines)


# --- Without a training


class Lines(logging.Handler):
    """Keeps the lines that are logged."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def own_process(function):
    """Run a test in a process of its own."""

    @functools.wraps(function)
    def test(tmp_path):
        runs.call(in_process, tmp_path / "log", function.__name__, tmp_path)

    return test


def in_process(name, folder):
    globals()[name].__wrapped__(folder)


def state(iteration, optimizer=True):
    content = {"meta": {"iter": iteration}, "state_dict": {"w": torch.full((10000,), float(iteration))}}
    return {**content, "optimizer": {}} if optimizer else content


def state_files(folder, lines):
    from ssm_train.runtime.states import StateFiles

    logger = MMLogger.get_instance("states")
    logger.handlers = [lines]
    return StateFiles(folder, logger)


@own_process
def test_older_states_make_room_but_never_the_newest(tmp_path):
    disk, lines = bad_places.disk(tmp_path / "disk", "150k"), Lines()
    files = state_files(disk, lines)
    files.keep = 9
    for iteration in range(1, 7):
        files.write(state(iteration))
        there = sorted(disk.glob("*.pth"))
        assert files.newest[1] in there
        assert all(damage(path) is None for path in there)
    assert [path.stem for path in there] == ["state_4", "state_5", "state_6"]
    assert f"{disk}/state_3.pth is deleted, {disk}/state_5.pth is kept" in lines.texts[-1]
    filler = bad_places.fill(disk)
    with pytest.raises(WriteError, match=r"state_7.pth: disk full: needed 202 kB, had \d"):
        files.write({**state(7), "more": torch.zeros(40000)})
    assert [path.stem for path in disk.glob("*.pth")] == ["state_6"]
    assert (disk / "last_checkpoint").read_text() == "state_6.pth"
    filler.unlink()
    # The newest is damaged. It cannot stand for the older ones.
    for iteration in (8, 9):
        files.write(state(iteration))
    (disk / "state_9.pth").write_bytes(b"PK")
    before = sorted(disk.glob("*.pth"))
    bad_places.fill(disk)
    with pytest.raises(WriteError):
        files.write(state(10))
    assert sorted(disk.glob("*.pth")) == before


@own_process
def test_a_failure_beside_the_training_is_noted(tmp_path):
    disk, lines = bad_places.disk(tmp_path / "disk", "100k"), Lines()
    files = state_files(disk, lines)
    files.write(state(1))
    bad_places.fill(disk)
    files.start_writing(2, lambda: {**state(2), "more": torch.zeros(40000)})
    files.wait()
    assert files.failure.full
    assert (
        f"the newest saved state is that of iteration 1 in {disk}/state_1.pth; the training goes on" in lines.texts[-1]
    )
    assert not files.given_up
    files.patience = 0.0
    assert files.given_up
    with pytest.raises(
        WriteError, match=r"reached its end, but its last state could not be saved: cannot write .*disk full"
    ):
        files.check_end()
    (disk / "filler").unlink()
    files.start_writing(3, lambda: state(3))
    files.check_end()
    assert not files.given_up


@own_process
def test_another_failure_beside_the_training_ends_it(tmp_path):
    files = state_files(tmp_path, Lines())
    files.start_writing(2, lambda: {**state(2), "more": lambda: None})
    with pytest.raises(Exception, match="pickle"):
        files.wait()
    files.wait()


@own_process
def test_a_lost_disk_is_not_filled_below(tmp_path):
    disk = bad_places.disk(tmp_path / "disk", "1m")
    (disk / "run").mkdir()
    files = state_files(disk / "run", Lines())
    files.write(state(1))
    bad_places.take_away(disk)
    with pytest.raises(WriteError, match=f"cannot write {disk}/run: the disk that it was on is gone"):
        files.write(state(2))
    assert list(disk.iterdir()) == []


@own_process
def test_records_are_left_out_and_go_on(tmp_path):
    """Those of TensorBoard have a thread that ends with the first error."""
    from ssm_train.runtime.logs import threads_may_fail_to_write
    from ssm_train.runtime.trackers import patient
    from ssm_train.runtime.trackers.visualizer import TrainingVisualizer

    disk, lines = bad_places.disk(tmp_path / "disk", "64k"), Lines()
    logger = MMLogger.get_instance("records")
    logger.handlers = [lines]
    patient._PAUSE = 0.0
    visualizer = TrainingVisualizer(save_dir=str(disk))
    scalars, picture = {f"name{i}": 0.1 for i in range(100)}, torch.randint(0, 255, (99, 99, 3), dtype=torch.uint8)
    visualizer.add_scalars(scalars, step=0)
    filler = bad_places.fill(disk)
    with threads_may_fail_to_write():
        until = time.monotonic() + 60
        while not (len(lines.texts) == 2 and min(b.missing for b in visualizer._vis_backends.values()) > 2):
            visualizer.add_scalars(scalars, step=1)
            visualizer.add_image("picture", picture.numpy(), step=1)
            for backend in visualizer._vis_backends.values():
                if backend.backend._env_initialized and hasattr(backend.backend, "_tensorboard"):
                    backend._record(backend.backend._tensorboard.flush)
            assert time.monotonic() < until, lines.texts
        assert sum("disk full" in text and "records for " in text for text in lines.texts) == 2
        assert not list(disk.rglob("*.png"))
        filler.unlink()
        visualizer.add_scalars(scalars, step=2)
        visualizer.add_image("picture", picture.numpy(), step=2)
        visualizer.close()
    assert sum("gets records again" in text for text in lines.texts) == 2
    for line in next(disk.rglob("scalars.json")).read_text().splitlines():
        assert line.startswith("{")
        assert line.endswith("}")
    assert [path.name for path in disk.rglob("*.png")] == ["picture_2.png"]


@own_process
def test_a_log_is_left_out_and_goes_on(tmp_path):
    from ssm_train.runtime.logs import make_patient

    disk = bad_places.disk(tmp_path / "disk", "16k")
    full = open("/dev/full", "w")  # noqa: SIM115
    handlers = [logging.FileHandler(disk / "run.log"), logging.StreamHandler(full)]
    make_patient(handlers)
    logger = logging.Logger("test")
    logger.handlers = handlers
    said = []
    for handler in handlers:
        handler.report = said.append
    filler = bad_places.fill(disk)
    for _ in range(9):
        logger.warning("x" * 999)
    assert len(said) == 2
    assert all("disk full" in text and "lines of the log are left out" in text for text in said)
    filler.unlink()
    logger.warning("the end")
    assert "9 lines are missing" in said[2]
    (disk / "run.log").unlink()
    logger.warning("of all")
    assert (disk / "run.log").read_text() == "of all\n"
