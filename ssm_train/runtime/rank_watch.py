"""Noticing a process of the run that has died, hangs or failed, and ending the others with its name.

The processes of a run wait for each other in every iteration, so that one that is gone or stopped leaves the others
waiting. Here a thread of each process shows every few seconds that it is alive. The first process judges them all, and
the others judge the first one.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from torch import distributed
from torch.distributed import TCPStore

_BEATS = 6  # signs of life within the time after which a silent process is given up
_CAUSE, _SAVED = "cause", "saved"


class RankWatch:
    """Watches the other processes of a run, and names the one that keeps it from going on.

    Args:
        seconds: of silence after which a process is given up. One whose connection broke is given up after half of it.
        on_stuck: called in the thread once there is a cause and the main thread does not come back from waiting.

    Attributes:
        cause: what happened to which process; None while all is well.
        lost: number of the process that died or is stopped; None if there is none, or if it could say why it ended.
    """

    def __init__(self, seconds: float, on_stuck: Callable[[], None]):
        self.seconds = seconds
        self.on_stuck = on_stuck
        self.cause: str | None = None
        self.lost: int | None = None
        self._rank, self._size = distributed.get_rank(), distributed.get_world_size()
        self._store = self._connect()
        me = f"process {self._rank} (host {socket.gethostname()}, pid {os.getpid()})"
        self._names: list[str] = [""] * self._size
        distributed.all_gather_object(self._names, me)
        self._last: dict[int, tuple[bytes, float]] = {}
        self._broken = threading.Event()  # an exchange failed: wait less long
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rank watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer, because the run ends: the main thread is not waiting for another process."""
        self._ended.set()

    def announce(self, words: str) -> None:
        """Tell the other processes that this one cannot go on."""
        if self.cause is None:
            self._give_up(f"{self._names[self._rank]} failed: {words}", None)

    def why(self) -> str:
        """Why an exchange between the processes failed. Waits until that is known."""
        self._broken.set()
        end = time.monotonic() + self.seconds
        while self.cause is None and time.monotonic() < end:
            time.sleep(0.05)
        return self.cause or "the connection between the processes broke, and all of them are alive"

    @property
    def saves(self) -> bool:
        """Whether this process is the one that saves the state: the first that is alive."""
        return self._rank == (1 if self.lost == 0 else 0)

    def share(self, key: str, words: str, seconds: float = 5.0) -> list[str]:
        """Give the other processes a text, and return theirs as far as they come within a time.

        Args:
            key: the same in all processes.
            words: this process's text.
            seconds: the time.
        """
        end, found = time.monotonic() + seconds, {self._rank: words}
        with suppress(RuntimeError):  # the first process has ended
            self._store.set(f"{key} {self._rank}", words)
            for rank in range(self._size):
                while not self._store.check([f"{key} {rank}"]) and time.monotonic() < end:
                    time.sleep(0.05)
                if self._store.check([f"{key} {rank}"]):
                    found[rank] = self._store.get(f"{key} {rank}").decode()
        return [found[rank] for rank in sorted(found)]

    def saved(self, words: str) -> None:
        """Tell the other processes that the state is saved."""
        self._try_to_set(_SAVED, words)

    def wait_until_saved(self, seconds: float = 20.0) -> str:
        """Wait for :meth:`saved` of another process, and return what it says."""
        unknown = "another process saves the state"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self._store.check([_SAVED]):
                    return self._store.get(_SAVED).decode()
            except RuntimeError:  # its process has ended
                return unknown
            time.sleep(0.05)
        return unknown

    def _connect(self) -> TCPStore:
        """The store is this class's own, because the process group's is locked while a process waits in it."""
        host, timeout = os.environ.get("MASTER_ADDR", "127.0.0.1"), timedelta(seconds=self.seconds)
        port: list[int | None] = [None]
        if self._rank == 0:
            store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
            port = [store.port]
        distributed.broadcast_object_list(port)
        if self._rank > 0:
            store = TCPStore(host, port[0], is_master=False, timeout=timeout)
        store.set_timeout(timedelta(seconds=self.seconds / _BEATS))
        return store

    def _watch(self) -> None:
        watched = [rank for rank in range(self._size) if rank > 0] if self._rank == 0 else [0]
        self._last = {rank: (b"", time.monotonic()) for rank in watched}
        count, store_is_gone = 0, False
        while not self._ended.wait(min(self.seconds / _BEATS / 2, 2.0)):
            count += 1
            try:
                if store_is_gone:
                    raise RuntimeError("each try would print a warning of torch")
                self._store.set(f"beat {self._rank}", str(count))
                beats = [self._store.get(f"beat {r}") if self._store.check([f"beat {r}"]) else b"" for r in watched]
                if self._store.check([_CAUSE]):
                    lost, _, words = self._store.get(_CAUSE).decode().partition(" ")
                    self._give_up(words, int(lost) if lost != "-" else None)
                    return
            except RuntimeError:  # the first process has the store
                self._broken.set()
                store_is_gone = self._rank > 0
                beats = [self._last[rank][0] for rank in watched]
            if (silent := self._silent(dict(zip(watched, beats, strict=True)))) is not None:
                since = time.monotonic() - self._last[silent][1]
                self._give_up(f"{self._names[silent]} has not answered for {since:.0f} s", silent)
                return

    def _silent(self, beats: dict[int, bytes]) -> int | None:
        now, limit = time.monotonic(), self.seconds / (2 if self._broken.is_set() else 1)
        for rank, beat in beats.items():
            if beat != self._last[rank][0]:
                self._last[rank] = (beat, now)
            elif now - self._last[rank][1] > limit:
                return rank
        return None

    def _give_up(self, words: str, lost: int | None) -> None:
        """Note the cause, tell it to the others, and break the exchanges in which the main thread may be waiting."""
        self.lost, self.cause = lost, words
        self._try_to_set(_CAUSE, f"{'-' if lost is None else lost} {words}")
        if threading.current_thread() is self._thread and not self._ended.wait(self.seconds / _BEATS):
            self.on_stuck()

    def _try_to_set(self, key: str, words: str) -> None:
        try:
            if not self._store.check([key]):
                self._store.set(key, words)
        except RuntimeError:  # the process with the store has ended
            pass
