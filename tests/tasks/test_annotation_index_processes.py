"""Several processes open one annotation file: one of them makes its index, even if another one dies meanwhile."""

import os
import signal
import time

import pytest
from annotation_indices import ALL, FORK, indices, opened, took

from ssm_train.runtime import folder_lock
from ssm_train.tasks.detection import index
from ssm_train.tasks.detection.index import Indexing


def say_in(path, words):
    with path.open("a") as file:
        file.write(f"{words}\n")


def read_in_child(coco, log, begin, wait=0.0, indexing=ALL):
    """Open the annotations in a process of its own, where reading the file takes some seconds more."""

    def slow(*arguments):
        say_in(log, "reads")
        time.sleep(wait)
        return read(*arguments)

    read, index.read_file = index.read_file, slow
    begin.wait()
    say_in(log, len(opened(coco, indexing=indexing).annotations))


def test_of_two_processes_one_reads(coco, tmp_path):
    log, begin = tmp_path / "log", FORK.Barrier(2)
    processes = [FORK.Process(target=read_in_child, args=(coco, log, begin, 1.0)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(log.read_text().split()) == ["12", "12", "reads"]
    assert [path.suffix for path in coco.root.glob(".*")] == [".index"]


def killed_while_reading(coco):
    index.read_file = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
    opened(coco)


def killed_while_writing(coco):
    def half(file, arrays, notes):
        write(file, arrays, notes)
        file.file.truncate(file.tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    write, index.write_arrays = index.write_arrays, half
    opened(coco)


@pytest.mark.parametrize("end", [killed_while_reading, killed_while_writing])
def test_a_builder_that_was_killed(coco, lines, end):
    process = FORK.Process(target=end, args=(coco,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not indices(coco)
    left = {path.suffix for path in coco.root.glob(".*")}
    assert left == ({".lock", ".tmp"} if end is killed_while_writing else {".lock"})
    assert len(opened(coco).annotations) == 12
    assert not took(lines)
    assert [path.suffix for path in coco.root.glob(".*")] == [".index"]


def test_a_builder_that_dies_while_another_waits(coco, lines, tmp_path):
    log, begin = tmp_path / "log", FORK.Barrier(2)
    process = FORK.Process(target=read_in_child, args=(coco, log, begin, 60.0))
    process.start()
    begin.wait()
    while not log.exists():
        time.sleep(0.01)
    killer = FORK.Process(target=lambda: time.sleep(0.5) or os.kill(process.pid, signal.SIGKILL))
    killer.start()
    assert len(opened(coco).annotations) == 12
    killer.join()
    process.join()
    assert f"process {process.pid}" in lines[0]
    assert "which process" in lines[0]
    assert "for at most 1800 s" in lines[0]
    assert f"process {process.pid} on" in lines[1]
    assert "ended without an index" in lines[1]


def test_the_wait_has_an_end(coco, lines):
    (place,) = index._AnnotationFile(coco.path, "skip", str(coco.root / "train"), True, ALL)._places()[:1]
    lock = folder_lock.attempt(place.with_suffix(".lock"), "")
    start = time.monotonic()
    assert len(opened(coco, indexing=Indexing(smallest=0, patience=0.3)).annotations) == 12
    assert time.monotonic() - start < 10
    folder_lock.release(lock)
    assert "for at most 0.3 s" in lines[0]
    assert "has not made the index" in lines[1]
    assert "is read here as well" in lines[1]
    assert not indices(coco)
