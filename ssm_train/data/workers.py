"""Data loaders and their worker processes, which signals that stop a training do not end before it."""

import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmengine.runner.runner import _SlicedDataset  # what num_batch_per_epoch makes
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data._utils.signal_handling import _remove_worker_pids, _set_worker_pids

from ssm_core.errors import ConfigError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


class StoppableLoader(DataLoader):
    """torch's data loader, whose worker processes can be ended while its batches are being used."""

    _running: weakref.ref | None = None

    def __iter__(self) -> Any:
        iterator = super().__iter__()
        self._running = weakref.ref(iterator)
        return _WatchedFetches(iterator) if hasattr(iterator, "_workers") else iterator

    def stop_workers(self) -> None:
        """End the workers. torch would do it when Python exits, and wait five seconds (pytorch/pytorch issue 81794)."""
        iterator = self._running and self._running()
        if hasattr(iterator, "_shutdown_workers"):  # it has workers
            if self.lost_worker():  # a worker that is stopped would not end by itself
                for worker in iterator._workers:
                    worker.kill()
            iterator._shutdown_workers()
        self._iterator = None

    def stopped_workers(self) -> list[int]:
        """The process numbers of the workers that somebody has stopped, for example by SIGSTOP."""
        iterator = self._running and self._running()
        return [w.pid for w in getattr(iterator, "_workers", ()) if w.exitcode is None and _is_stopped(w.pid)]

    def lost_worker(self) -> str:
        """The worker that has died or is stopped, in words; an empty text if there is none."""
        iterator = self._running and self._running()
        for worker in getattr(iterator, "_workers", ()):
            if worker.exitcode not in (None, 0):
                return f"worker {worker.pid} of the data loader ended with {worker.exitcode}"
            if worker.exitcode is None and _is_stopped(worker.pid):
                return f"worker {worker.pid} of the data loader is stopped"
        return ""


class _WatchedFetches:
    """Iterator of a loader with workers. The error that a worker has died comes from a fetch, and from nothing else.

    torch raises it in its handler of SIGCHLD, which runs between any two lines of the main thread. In the middle of an
    update the weights and the state of the optimizer belong to no iteration. While an error is explained and the state
    is saved, a second error would stop that. The handler knows nothing of these workers outside a fetch.

    Args:
        iterator: torch's iterator with worker processes.
    """

    def __init__(self, iterator: Any):
        self._iterator = iterator
        if iterator._worker_pids_set:
            _remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False  # torch would remove them again at the end

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        workers = self._iterator._workers
        # A fetch can wait for ever for the second half of what a worker was sending. Only the handler ends that.
        _set_worker_pids(id(self), tuple(worker.pid for worker in workers))
        try:
            for worker in workers:  # the handler is told of nothing that was before
                if worker.exitcode not in (None, 0):
                    raise RuntimeError(f"DataLoader worker (pid {worker.pid}) has ended with {worker.exitcode}")
            return next(self._iterator)
        finally:
            _remove_worker_pids(id(self))


def _is_stopped(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def shielded(given: Callable[[int], None] | None, worker: int) -> None:
    """Start a worker process that only its training can end, as the ``worker_init_fn`` of a data loader.

    Ctrl-C, torchrun and Slurm signal every process of a run. A worker that ended at once would fail the batch that its
    training still needs for the state that it saves. A worker whose training is gone ends by itself: torch sees to it.

    Args:
        given: the loader's own ``worker_init_fn``, called afterwards.
        worker: number of the worker.
    """
    for number in STOP_SIGNALS[1:]:
        signal.signal(number, signal.SIG_IGN)
    # torch ends a worker that hangs by SIGTERM, so the sender decides. A handler in Python is not told who it is.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()
    if given is not None:
        given(worker)


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def check_batches(loader: DataLoader) -> None:
    """Check the number of samples, which mmengine would only assert or notice in mid epoch.

    Raises:
        ConfigError: ``drop_last`` leaves not a single batch, or ``num_batch_per_epoch`` asks for more than there is.
    """
    cut = loader.dataset
    if isinstance(cut, _SlicedDataset) and len(cut) > len(cut._dataset):
        raise ConfigError(
            f"num_batch_per_epoch of a data loader asks for {len(cut)} samples, and its data have "
            f"{len(cut._dataset)}: set it to fewer batches, or to None for all"
        )
    if not getattr(loader.batch_sampler, "drop_last", False) or hasattr(loader.sampler, "skip"):  # an endless sampler
        return
    samples, size = len(loader.sampler), loader.batch_size
    if 0 < samples < size:
        raise ConfigError(
            f"a process has {samples} samples to train on, fewer than one batch of {size}: set "
            f"train_dataloader.batch_size={samples} or less"
        )


def left_out(loader: DataLoader, processes: int) -> str:
    """What a user should know of the samples that an epoch leaves out, because they do not fill a batch.

    Args:
        loader: of the training.
        processes: number of processes, each of which has such a loader.

    Returns:
        A sentence; an empty text if there are none, or the batches are not simply the samples in their order.
    """
    batches = getattr(loader.batch_sampler, "batch_sampler", loader.batch_sampler)
    if type(batches) is not BatchSampler or not batches.drop_last or hasattr(batches.sampler, "skip"):
        return ""
    samples = len(batches.sampler)
    if not (left := samples % batches.batch_size):
        return ""
    each = f" of {batches.batch_size}" if processes == 1 else f" of {batches.batch_size} for each process"
    return (
        f"an epoch leaves out {left * processes} of {samples * processes} samples, since they do not fill a "
        f"batch{each} and train_dataloader.drop_last is True"
    )
