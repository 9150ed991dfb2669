"""Rotating files with the state of a run, written beside the training."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mmengine.logging import MMLogger

from ssm_core import weights
from ssm_core.errors import NonFiniteError
from ssm_core.weights import damage
from ssm_core.writing import WriteError, existing
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.runtime.files import make_folder, remove_file
from ssm_train.runtime.resumed import non_finite_place


def check_finite(state: dict) -> None:
    """Check the weights in the state of a checkpoint, their moving average and what the optimizer keeps.

    Raises:
        NonFiniteError: a number in one of them is NaN or infinite.
    """
    for part, owner in (("state_dict", ""), ("ema_state_dict", "the moving average of ")):
        if (bad := weights.first_non_finite(state.get(part, {}))) is not None:
            raise NonFiniteError(f"{owner}{bad} is not finite")
    optimizer = state.get("optimizer", {})
    # Without a part of this name it has the states of several optimizers by name.
    if (bad := non_finite_place(optimizer.get("state", optimizer), "optimizer.state")) is not None:
        raise NonFiniteError(f"{bad} is not finite")


class StateFiles:
    """Writes states of a run to ``state_ITERATION.pth`` in its work folder, of which the newest are kept.

    Where a state cannot be written, the training goes on, and the next one is tried. It ends when none could be written
    for ``patience`` seconds.

    Args:
        folder: the work folder.
        logger: told of a state that could not be written.

    Attributes:
        keep: number of files to keep.
        patience: seconds from the first state that could not be written to the end of the training.
        newest: iteration and file of the last state that was written; None before the first.
        known: the files of this run by iteration. Others are never deleted, whatever their names.
        failure: why the last state could not be written; None if it was.
        missing: what else of the run could not be written when it was tried last, by name, and why.
    """

    def __init__(self, folder: Path, logger: MMLogger):
        self.folder, self.logger = folder, logger
        self.keep = 2
        self.patience = 3600.0
        self.newest: tuple[int, Path] | None = None
        self.known: dict[int, Path] = {}
        self.failure: WriteError | None = None
        self.missing: dict[str, WriteError] = {}
        self._failing_since = 0.0
        self._saved: list[tuple[int, Path]] = []  # what this process wrote and can be resumed, from the oldest on
        self._place = _identity(folder)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def busy(self) -> bool:
        """Whether a state is being written."""
        return self._thread is not None and self._thread.is_alive()

    def write(self, state: dict) -> Path:
        """Write a state, point to it and delete the oldest files.

        Raises:
            NonFiniteError: a number is NaN or infinite, see :func:`check_finite`; nothing is written.
            WriteError: the file cannot be written; the newest one before is kept.
        """
        check_finite(state)
        iteration = state["meta"]["iter"]
        path = self.folder / f"state_{iteration}.pth"
        self.save(state, path)
        ckpt.point_to(path)
        self.newest = (iteration, path)
        self.known[iteration] = path
        self._delete([number for number in sorted(self.known) if number <= iteration][: -self.keep])
        return path

    def save(self, state: dict, path: Path) -> None:
        """Write a state to a file. If the disk is full, older states of this process make room, but never the newest.

        Raises:
            WriteError: the file cannot be written.
        """
        self._look_for_folder()
        while True:
            try:
                ckpt.save(state, path)
                break
            except WriteError as error:
                if not error.full or not self._make_room(path):
                    raise
        if "optimizer" not in state:
            return
        self._saved.append((state["meta"]["iter"], path))
        if self.failure is not None:
            self.logger.warning(f"the state of iteration {state['meta']['iter']} is saved in {path}")
        self.failure = None

    def resumed(self, iteration: int, path: Path) -> None:
        """Note the checkpoint that the run goes on from."""
        self._saved.append((iteration, path))

    def failed(self, error: WriteError, iteration: int) -> None:
        """Note and report that a state could not be written, while the training goes on.

        Args:
            error: why.
            iteration: of the state.
        """
        if self.failure is None:
            self._failing_since = time.monotonic()
        self.failure = error
        self.logger.warning(
            f"the state of iteration {iteration} is not saved: {error}; {self.describe()}; the training goes on and "
            f"tries again, and ends if no state is saved within {self.patience / 60:g} minutes"
        )

    @property
    def given_up(self) -> bool:
        """Whether no state could be written for so long that the training has to end."""
        return self.failure is not None and time.monotonic() - self._failing_since >= self.patience

    def check_end(self) -> None:
        """Check at the end of the training that all of it is written.

        Raises:
            WriteError: something is not.
        """
        self.wait()
        missing = {**({"last state": self.failure} if self.failure else {}), **self.missing}
        if missing:
            raise WriteError(
                f"the training reached its end, but its {' and its '.join(missing)} could not be saved: "
                f"{next(iter(missing.values()))}; {self.describe()}: make room, and give the same command with --resume"
            )

    def describe(self) -> str:
        """Where the newest state is, in words."""
        there = [(iteration, path) for iteration, path in self._saved if path.exists()]
        if not there:
            return "no state of this run is saved"
        return f"the newest saved state is that of iteration {there[-1][0]} in {there[-1][1]}"

    def start_writing(self, iteration: int, read: Callable[[], dict]) -> None:
        """Write a state in a thread of its own.

        Args:
            iteration: of the state.
            read: called in the thread for the state, which the training must not change.
        """
        self.wait()
        self._thread = threading.Thread(target=self._write_aside, args=(iteration, read), name="state")
        self._thread.start()

    def wait(self) -> None:
        """Return when no state is being written.

        Raises:
            Exception: the thread that wrote one met an error which is neither the disk's nor a NaN.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def remove(self, until: int) -> None:
        """Delete the files up to an iteration."""
        self._delete([number for number in self.known if number <= until])

    def _write_aside(self, iteration: int, read: Callable[[], dict]) -> None:
        try:
            self.write(read())
        except WriteError as error:
            self.failed(error, iteration)
        except NonFiniteError as error:
            self.logger.error(f"the state of iteration {iteration} is not saved in {self.folder}: {error}")
        except Exception as error:
            self._error = error

    def _make_room(self, path: Path) -> bool:
        """Delete the oldest state that this process wrote, if a newer one is whole. Return whether one was deleted."""
        there = [saved for _, saved in self._saved if saved.exists() and saved != path]
        rotating = [saved for saved in there[:-1] if saved.parent == self.folder and saved.match("state_*.pth")]
        if not rotating or damage(there[-1]) is not None:
            return False
        self.logger.warning(f"the disk is full: {rotating[0]} is deleted, {there[-1]} is kept")
        remove_file(rotating[0])
        return True

    def _look_for_folder(self) -> None:
        """Make the work folder anew if it was deleted, but not on another disk, in a place where the first one was.

        Raises:
            WriteError: the disk of the folder is gone.
        """
        now = _identity(self.folder)
        if now is not None and (self._place is None or now[1] == self._place[1]):
            return
        disk = os.stat(existing(self.folder)).st_dev
        if self._place is not None and disk != self._place[0]:
            raise WriteError(f"cannot write {self.folder}: the disk that it was on is gone")
        make_folder(self.folder)
        self._place = _identity(self.folder)
        self.logger.warning(
            f"the work folder {self.folder} was deleted and is made anew; the checkpoints and records in it are lost"
        )

    def _delete(self, iterations: list[int]) -> None:
        for iteration in iterations:
            remove_file(self.known.pop(iteration))


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from one that is made in its place: disk and number; None if there is none."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino
