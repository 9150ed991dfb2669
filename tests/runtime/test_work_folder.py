"""A work folder belongs to one run: it is locked, refused while occupied, and a copy leaves the original alone."""

import itertools
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
import runs
import torch
from mmengine.hooks import Hook

from ssm_core.errors import CheckpointError, ConfigError
from ssm_core.writing import WriteError
from ssm_train.apis import train as apis_train
from ssm_train.runtime import folder_lock
from ssm_train.runtime.checkpoints import Outline, pointed, save
from ssm_train.runtime.trackers.wandb import keep_identity, known_identity
from ssm_train.runtime.work_folder import MARKER, Start, WorkFolder, claimed

STATE = {"state_dict": {}, "optimizer": {}, "message_hub": {}}
NAME, *OPTIONS = runs.RESNET
EVERY_TWO = ("default_hooks.checkpoint.by_epoch=False", "default_hooks.checkpoint.interval=2",
             "default_hooks.checkpoint.max_keep_ckpts=-1")  # fmt: skip

NUMBERS = itertools.count()


def train(work, *options, **settings):
    """Train in this process. Runs of one name that begin in one second would share mmengine's records."""
    return runs.train(NAME, work, *OPTIONS, *EVERY_TWO, f"experiment_name={next(NUMBERS)}", *options, **settings)


def write_state(path, iteration, run=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    save({**STATE, "meta": {"epoch": 0, "iter": iteration, **({"run": run} if run else {})}}, path)


def claim(work_dir, **start):
    with claimed(work_dir, Start(**start)) as folder:
        return folder


def begin(work_dir, **start):
    with claimed(work_dir, Start(**start)) as folder:
        folder.begin()
        return folder


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_runs_at_once(tmp_path):
    with claimed(tmp_path, Start()), pytest.raises(ConfigError, match=rf"going on in .* pid {os.getpid()}\): wait"):
        train(tmp_path)
    claim(tmp_path)


@pytest.mark.parametrize("start", [Start(resume=True), Start(overwrite=True)])
def test_a_run_that_is_going_on_is_never_disturbed(tmp_path, start):
    write_state(tmp_path / "iter_2.pth", 2)
    before = content_of(tmp_path)
    with claimed(tmp_path, Start(resume=True)):
        with pytest.raises(folder_lock.LockedError), claimed(tmp_path, start):
            pass
        assert before.items() <= content_of(tmp_path).items()


def test_a_command_that_is_given_again_waits_for_the_run_that_is_about_to_end(tmp_path):
    """Such as that of a study that was killed: its run saves its state, and the study begins anew meanwhile."""
    ending = folder_lock.acquire(tmp_path)
    timer = threading.Timer(1.5, folder_lock.release, [ending])
    timer.start()
    try:
        with claimed(tmp_path, Start(resume=True, or_begin=True)):
            assert timer.finished.is_set()
    finally:
        timer.cancel()
        folder_lock.release(ending)


def test_a_killed_process_holds_nothing_even_if_its_workers_live_on(tmp_path):
    ready, told = os.pipe()
    holder = os.fork()
    if not holder:
        folder_lock.acquire(tmp_path)
        worker = os.fork()
        if worker:
            os.write(told, f"{worker}\n".encode())
        signal.pause()
        os._exit(0)
    worker = int(os.read(ready, 100))
    with pytest.raises(folder_lock.LockedError, match=f"pid {holder}"):
        claim(tmp_path)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    try:
        claim(tmp_path)
        os.kill(worker, 0)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_lock_of_another_host_is_waited_for(tmp_path, monkeypatch):
    lock = folder_lock.acquire(tmp_path)
    (tmp_path / folder_lock.FILE).write_text("elsewhere 7\n")
    with pytest.raises(folder_lock.LockedError, match="host elsewhere, pid 7"):
        folder_lock.acquire(tmp_path)
    # The other host is noticed to be dead while this process waits.
    monkeypatch.setattr(folder_lock.time, "sleep", lambda seconds: folder_lock.release(lock))
    folder_lock.release(folder_lock.acquire(tmp_path, patience=60))


def test_a_deleted_lock_file_locks_nothing(tmp_path):
    lock = folder_lock.acquire(tmp_path)
    (tmp_path / folder_lock.FILE).unlink()
    folder_lock.release(folder_lock.acquire(tmp_path))
    folder_lock.release(lock)


def test_a_link_is_not_followed_out_of_the_folder(tmp_path):
    (tmp_path / "diary").write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / folder_lock.FILE).symlink_to(tmp_path / "diary")
    with claimed(run, Start()), pytest.raises(folder_lock.LockedError):
        claim(run)
    assert (tmp_path / "diary").read_text() == "mine"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file is a file and no folder"):
        claim(tmp_path / "file" / "run")
    (tmp_path / "run" / folder_lock.FILE).mkdir(parents=True)
    with pytest.raises(WriteError, match="lock: it is a folder"):
        claim(tmp_path / "run")


def test_runs_that_saved_nothing_are_in_nobodys_way(tmp_path):
    begin(tmp_path)
    (tmp_path / "20260101_000000").mkdir()
    (tmp_path / "curves.json").write_text('{"train": [{"iter": 10, "epoch": 1, "loss": 1.0}], "val": []}')
    (tmp_path / "weights.pth").touch()
    first, second = begin(tmp_path), begin(tmp_path)
    assert first.run != second.run
    assert claim(tmp_path, resume=True).run == second.run


@pytest.mark.parametrize("name", ["iter_2.pth", "epoch_3.pth", "state_7.pth", "best_top1_epoch_1.pth", "curves.json"])
def test_an_occupied_folder_is_refused(tmp_path, name):
    (tmp_path / name).write_text('{"train": [], "val": [{"iter": 2, "epoch": 1, "top1": 10.0}]}')
    before = content_of(tmp_path)
    with pytest.raises(ConfigError, match=rf"{name}\): go on with it by --resume, replace it by --overwrite, begin an"):
        train(tmp_path)
    assert before.items() <= content_of(tmp_path).items()
    assert claim(tmp_path, resume=True).path == tmp_path


def test_one_of_three():
    with pytest.raises(ConfigError, match="choose one of --resume, --overwrite and --fresh"):
        Start(resume=True, fresh=True)


def test_overwriting_deletes_the_files_of_a_run_alone(tmp_path):
    write_state(tmp_path / "iter_2.pth", 2)
    (tmp_path / "iter_4.pth").write_bytes(b"PK")  # damaged
    torch.save({"state_dict": {}, "meta": {}}, tmp_path / "best_top1_iter_2.pth")
    for name in ("last_checkpoint", "curves.json", "curves.png", "wandb_run"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "20260101_000000").mkdir()
    for name in ("notes.txt", "mine.pth", "20260101_000000/20260101_000000.log"):
        (tmp_path / name).touch()
    torch.save(torch.ones(3), tmp_path / "iter_3.pth")
    (tmp_path / "iter_6.pth").mkdir()
    begin(tmp_path, overwrite=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} - {MARKER, folder_lock.FILE}
    assert left == {"notes.txt", "mine.pth", "20260101_000000", "20260101_000000/20260101_000000.log", "iter_3.pth",
                    "iter_6.pth.damaged"}  # fmt: skip


def test_nothing_is_deleted_before_the_run_can_begin(tmp_path):
    write_state(tmp_path / "iter_2.pth", 2)
    cfg = runs.configure(NAME, tmp_path, *OPTIONS, "load_from=no.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        apis_train.train(cfg, overwrite=True)
    assert (tmp_path / "iter_2.pth").is_file()


def test_fresh_folders(tmp_path):
    assert begin(tmp_path, fresh=True).path == tmp_path
    write_state(tmp_path / "iter_2.pth", 2)
    assert begin(tmp_path, fresh=True).path == tmp_path / "run_2"
    second = begin(tmp_path, fresh=True)
    assert second.path == tmp_path / "run_2", "nothing was saved there"
    write_state(tmp_path / "run_2" / "iter_2.pth", 2, second.run)
    with claimed(tmp_path, Start(fresh=True)) as third:
        assert third.path == tmp_path / "run_3"
        assert claim(tmp_path, fresh=True).path == tmp_path / "run_4", "a run is going on in run_3"
        third.begin()
    # Of somebody who named that folder.
    begin(tmp_path / "run_9")
    assert claim(tmp_path, resume=True).path == tmp_path / "run_3"
    assert claim(tmp_path, resume=tmp_path / "run_2" / "iter_2.pth").path == tmp_path / "run_2"
    for options in ({}, {"overwrite": True}):
        with pytest.raises(ConfigError, match="has several runs, the newest in run_3"):
            claim(tmp_path, **options)
    shutil.move(tmp_path, tmp_path.with_name("moved"))
    moved = tmp_path.with_name("moved")
    assert claim(moved, resume=True).path == moved / "run_3"
    tmp_path.mkdir()


def test_a_file_of_another_run_is_not_continued_in_an_occupied_folder(tmp_path):
    run, other = begin(tmp_path / "a"), begin(tmp_path / "b")
    write_state(tmp_path / "a" / "iter_2.pth", 2, run.run)
    write_state(tmp_path / "b" / "iter_2.pth", 2, other.run)
    shutil.copy(tmp_path / "b" / "iter_2.pth", tmp_path / "a" / "iter_4.pth")
    shutil.copy(tmp_path / "a" / "iter_2.pth", tmp_path / "backup.pth")
    for file in ("b/iter_2.pth", "a/iter_4.pth"):
        with pytest.raises(ConfigError, match="of another one: name another --work-dir"):
            claim(tmp_path / "a", resume=tmp_path / file)
    for file in ("a/iter_2.pth", "backup.pth"):
        assert claim(tmp_path / "a", resume=tmp_path / file).run not in (run.run, other.run)
    assert claim(tmp_path / "new", resume=tmp_path / "b" / "iter_2.pth").before == {}


def test_going_back_abandons_what_came_later(tmp_path):
    first = begin(tmp_path)
    second = WorkFolder(tmp_path, before={first.run: 10**9})
    second.continues(Outline(0, 6, first.run), named=True)
    third = WorkFolder(tmp_path, before={**second.before, second.run: 10**9})
    third.continues(Outline(0, 8, second.run), named=True)
    with claimed(tmp_path, Start(resume=True)) as found:
        assert (found.run, found.before) == (third.run, {first.run: 6, second.run: 8})
    assert found.stranger(first.run, 6) == found.stranger(second.run, 8) == found.stranger(third.run, 99) == ""
    assert "goes on from iteration 6" in found.stranger(first.run, 8)
    assert "another run" in found.stranger(None, 2)
    assert "another run" in found.stranger("x", 2)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": 3, "before": [], "fresh": false}', "[" * 10**5, "\0"])
def test_a_damaged_marker(tmp_path, text):
    (tmp_path / MARKER).write_text(text)
    assert not claim(tmp_path, resume=True).known


def test_the_identity_at_wandb_stays_with_the_folder_that_began_it(tmp_path):
    (tmp_path / "run").mkdir()
    assert known_identity(tmp_path / "run") is None
    keep_identity(tmp_path / "run", "abc")
    assert known_identity(tmp_path / "run") == "abc"
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    (tmp_path / "run").rename(tmp_path / "renamed")
    assert known_identity(tmp_path / "renamed") == "abc"
    assert known_identity(tmp_path / "copy") is None
    (tmp_path / "copy" / "wandb_run").write_text("earlier\n")
    assert known_identity(tmp_path / "copy") == "earlier", "an earlier release wrote the id alone"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of six iterations, with states of 2, 4 and 6 and a best checkpoint."""
    work = tmp_path_factory.mktemp("trained") / "run"
    train(work, "train_cfg.max_epochs=1")
    return work


def copied(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def test_a_config_in_the_work_folder_stays_as_its_user_wrote_it(trained, tmp_path):
    work, text = tmp_path / "run", f"# mine\n_base_ = {str(runs.CONFIGS / NAME)!r}\n"
    work.mkdir()
    (work / "mine.py").write_text(text)
    runs.train(work / "mine.py", work, *OPTIONS, "train_cfg.max_epochs=1")
    assert (work / "mine.py").read_text() == text
    # One of another folder is written into the work folder, and never through a link out of it.
    copy, original = copied(trained, tmp_path), trained / Path(NAME).name
    name, sound = original.name, original.read_text()
    (copy / name).unlink()
    (copy / name).symlink_to(original)
    train(copy, "train_cfg.max_epochs=2", resume=True)
    assert original.read_text() == sound
    assert "max_epochs=2" in (copy / name).read_text()


def test_figures_of_classes_are_written_through_no_link(trained, tmp_path):
    copy, outside = copied(trained, tmp_path), tmp_path / "outside"
    shutil.rmtree(copy / "evaluation", ignore_errors=True)
    outside.mkdir()
    (outside / "val_classes.csv").write_text("mine")
    (copy / "evaluation").symlink_to(outside)
    train(copy, "train_cfg.max_epochs=2", resume=True)
    assert [path.read_text() for path in outside.iterdir()] == ["mine"]
    assert (copy / "evaluation" / "val_classes.csv").is_file()


def test_pointers_are_names(trained):
    state = runs.last_state(trained)
    assert (trained / "last_checkpoint").read_text() == "iter_6.pth"
    info = state["message_hub"]["runtime_info"]
    assert (info["last_ckpt"], info["best_ckpt"]) == ("iter_6.pth", "best_top1_iter_6.pth")
    assert state["meta"]["run"] == json.loads((trained / MARKER).read_text())["run"]


def test_a_copy_goes_on_without_touching_the_original(trained, tmp_path):
    copy = copied(trained, tmp_path)
    # Earlier releases saved whole paths.
    state = runs.last_state(copy)
    state["message_hub"]["runtime_info"].update(best_ckpt=str(trained / "best_top1_iter_6.pth"), best_score=-1.0)
    save(state, copy / "iter_6.pth")
    (copy / "last_checkpoint").write_text(str(trained / "iter_6.pth"))
    before = content_of(trained)
    train(copy, "default_hooks.checkpoint.max_keep_ckpts=1", resume=True)
    assert content_of(trained) == before
    assert [path.name for path in copy.glob("best_*")] == ["best_top1_iter_12.pth"]
    assert pointed(copy) == copy / "iter_12.pth"


def test_an_older_runs_files_in_the_folder_are_passed_over(trained, tmp_path, capsys):
    work = tmp_path / "run"
    train(work, "train_cfg.max_epochs=1", "randomness.seed=5")
    shutil.copy(trained / "iter_6.pth", work / "epoch_9.pth")
    (work / "iter_6.pth").unlink()
    theirs = (work / "epoch_9.pth").read_bytes()
    train(work, "randomness.seed=5", resume=True)
    assert (
        f"{work / 'epoch_9.pth'} is of another run than the one in this folder; it is passed" in capsys.readouterr().out
    )
    assert (work / "epoch_9.pth").read_bytes() == theirs
    assert runs.last_state(work)["meta"]["seed"] == 5


class Crash(BaseException):
    """Ends a run as a power cut does: nothing is saved."""


class CrashHook(Hook):
    """Crashes after an iteration."""

    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == 5:
            raise Crash


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_named_file_is_gone_on_from_even_after_a_crash(trained, tmp_path, elsewhere):
    """From a file of another folder, and back to an earlier state. The run crashes before it saves anything."""
    work = tmp_path / "new" if elsewhere else copied(trained, tmp_path)
    file = (trained if elsewhere else work) / "iter_4.pth"
    with pytest.raises(Crash):
        train(work, resume=file, hooks=[dict(type=f"{__name__}.CrashHook")])
    result = train(work, resume=True)
    assert [point["iter"] for point in result.curves["train"]][-8:] == [5, 6, 7, 8, 9, 10, 11, 12]
    assert "resumed epoch: 0, iter: 4" in "".join(p.read_text() for p in work.glob("*/*.log"))
    assert not list(work.glob("state_*"))
