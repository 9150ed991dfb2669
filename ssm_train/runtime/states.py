"""Rotating files with the state of a run, written beside the training."""

import re
import threading
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger

from ssm_core import weights
from ssm_core.errors import NonFiniteError
from ssm_train.runtime import checkpoints as ckpt
from ssm_train.runtime.files import write_text_atomically


def check_finite(state: dict) -> None:
    """Check the weights in the state of a checkpoint, and their moving average.

    Raises:
        NonFiniteError: one of them is NaN or infinite.
    """
    for part in ("state_dict", "ema_state_dict"):
        if (bad := weights.first_non_finite(state.get(part, {}))) is not None:
            raise NonFiniteError(f"{bad} is not finite")


class StateFiles:
    """Writes states of a run to ``state_ITERATION.pth`` in its work folder, of which the newest are kept.

    Args:
        folder: the work folder.
        logger: told of a state that could not be written. The training goes on then.

    Attributes:
        keep: number of files to keep.
        newest: iteration and file of the last state that was written; None before the first.
    """

    def __init__(self, folder: Path, logger: MMLogger):
        self.folder, self.logger = folder, logger
        self.keep = 2
        self.newest: tuple[int, Path] | None = None
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a state is being written."""
        return self._thread is not None and self._thread.is_alive()

    def write(self, state: dict) -> Path:
        """Write a state, point to it and delete the oldest files.

        Raises:
            NonFiniteError: a weight is NaN or infinite; nothing is written.
            OSError: the file cannot be written; the files before are kept.
        """
        check_finite(state)
        iteration = state["meta"]["iter"]
        path = self.folder / f"state_{iteration}.pth"
        ckpt.save(state, path)
        write_text_atomically(self.folder / ckpt.POINTER, str(path))
        self.newest = (iteration, path)
        for old in self._files(iteration)[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def start_writing(self, state: dict, copied: Any = None) -> None:
        """Write a state in a thread of its own.

        Args:
            state: not shared with the training.
            copied: an event of the device, after which the state is complete; None if it is already.
        """
        self.wait()
        self._thread = threading.Thread(target=self._write_aside, args=(state, copied), name="state")
        self._thread.start()

    def wait(self) -> None:
        """Return when no state is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def remove(self, until: int) -> None:
        """Delete the files up to an iteration."""
        for path in self._files(until):
            path.unlink(missing_ok=True)

    def _write_aside(self, state: dict, copied: Any) -> None:
        try:
            if copied is not None:
                copied.synchronize()
            self.write(state)
        except (NonFiniteError, OSError, RuntimeError) as error:  # torch raises RuntimeError where a disk is full
            iteration = state["meta"]["iter"]
            self.logger.error(f"the state of iteration {iteration} could not be saved in {self.folder}: {error}")

    def _files(self, until: int) -> list[Path]:
        """The files up to an iteration, from the oldest on."""
        found = ((re.fullmatch(r"state_(\d+)", path.stem), path) for path in self.folder.glob("state_*.pth"))
        numbered = sorted((int(match[1]), path) for match, path in found if match)
        return [path for number, path in numbered if number <= until]
