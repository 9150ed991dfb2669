"""The number of loading processes follows from the cores, and they give way to the training."""

import os
import signal
import threading
import time

import pytest
import runs
from torch.utils.data import DataLoader, Dataset

from ssm_train.runtime import loading_processes
from ssm_train.runtime.building import building_in_scope
from ssm_train.runtime.loading_processes import NICENESS, Cores, loaders_for
from ssm_train.runtime.reproducibility import make_reproducible
from ssm_train.runtime.runner import Runner


@pytest.mark.parametrize(
    ("here", "processes", "on_gpu", "expected"),
    [(16, 1, True, 14), (32, 2, True, 14), (128, 8, True, 14), (2, 1, True, 1), (1, 4, True, 1), (64, 1, False, 16)],
)
def test_number_by_cores(here, processes, on_gpu, expected):
    assert loaders_for(Cores(here, processes), on_gpu) == expected


def test_cores_are_those_that_this_process_may_use(monkeypatch, tmp_path):
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:1])
    try:
        assert loading_processes.cores().here == 1
    finally:
        os.sched_setaffinity(0, allowed)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loading_processes.cores().processes == 4
    monkeypatch.setattr(loading_processes, "_CGROUP", tmp_path / "cpu.max")
    for text, quota in (("max 100000\n", len(allowed)), ("50000 100000\n", 1), ("nonsense", len(allowed))):
        (tmp_path / "cpu.max").write_text(text)
        assert loading_processes.cores().here == quota


class Niceness(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return os.getpriority(os.PRIO_PROCESS, 0)


def test_loaders_give_way_to_the_training():
    before = os.getpriority(os.PRIO_PROCESS, 0)
    loader = make_reproducible(DataLoader(Niceness(), num_workers=1), seed=0)
    assert {int(batch) for batch in loader} == {before + NICENESS}
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    loader.stop_workers()


def test_a_number_of_the_config_is_kept_and_none_is_chosen(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(loading_processes, "cores", lambda: Cores(8, 2))
    for given, expected in (("0", 0), ("3", 3), ("none", 1)):
        name, *options = runs.RESNET
        cfg = runs.configure(name, tmp_path, *options, f"train_dataloader.num_workers={given}")
        with building_in_scope("ssm_train"):
            assert Runner.build_dataloader(cfg.train_dataloader, seed=0).num_workers == expected
    assert lines == [
        f"loading of data: 1 process of niceness {NICENESS}, since the machine has 8 cores for 2 training processes"
    ]


class Slow(Dataset):
    """The samples after the first six take a minute."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        time.sleep(60 * (index > 5))
        return index


@pytest.mark.parametrize("fetched", [1, 6])
def test_the_death_of_a_worker_is_said_in_a_fetch_and_nowhere_else(fetched):
    loader = make_reproducible(DataLoader(Slow(), num_workers=2), seed=0)
    batches = iter(loader)
    assert [int(next(batches)) for _ in range(fetched)] == list(range(fetched))
    os.kill(batches._iterator._workers[1].pid, signal.SIGKILL)
    begin = time.monotonic()
    # torch's handler of SIGCHLD would raise here. On a busy machine a process takes a while to end.
    while (waited := time.monotonic() - begin) < 0.5 or (waited < 20 and not loader.lost_worker()):
        pass
    assert loader.lost_worker()
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid \d+\) has ended with -9"):
        next(batches)
    loader.stop_workers()


def test_a_worker_that_dies_during_a_fetch_ends_it_at_once():
    loader = make_reproducible(DataLoader(Slow(), num_workers=2), seed=0)
    batches = iter(loader)
    for _ in range(6):
        next(batches)
    victim = batches._iterator._workers[0].pid
    killer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    begin = time.monotonic()
    killer.start()
    with pytest.raises(RuntimeError, match=f"DataLoader worker .*{victim}"):
        next(batches)
    assert time.monotonic() - begin < 3  # torch itself looks for dead workers every five seconds
    loader.stop_workers()
