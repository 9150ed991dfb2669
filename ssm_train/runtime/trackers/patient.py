"""A backend for records that may fail without ending the training."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.visualization.vis_backend import BaseVisBackend

from ssm_core.writing import WriteError, refusal, write_error

_PAUSE = 60.0  # seconds before a backend that failed is tried again


class PatientBackend(BaseVisBackend):
    """Passes records on to a backend. While the system refuses to write them, they are left out.

    The first one that is left out is reported, and so is the end of it.

    Args:
        backend: the backend.
    """

    def __init__(self, backend: BaseVisBackend):
        super().__init__(backend._save_dir)
        self.backend = backend
        self.missing = 0
        self._failed = 0.0

    def _init_env(self) -> None:
        """Nothing: the backend makes what it needs when it is used first."""

    @property
    def experiment(self) -> Any:
        """What the backend gives as its experiment."""
        return self.backend.experiment

    def add_config(self, config: Config, **options: Any) -> None:
        """Record the config."""
        self._record(lambda: self.backend.add_config(config, **options))

    def add_graph(self, model: torch.nn.Module, data_batch: Sequence[dict], **options: Any) -> None:
        """Record the graph of a model."""
        self._record(lambda: self.backend.add_graph(model, data_batch, **options))

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **options: Any) -> None:
        """Record a picture."""
        self._record(lambda: self.backend.add_image(name, image, step, **options))

    def add_scalar(self, name: str, value: Any, step: int = 0, **options: Any) -> None:
        """Record a number."""
        self._record(lambda: self.backend.add_scalar(name, value, step, **options))

    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **options: Any) -> None:
        """Record several numbers."""
        self._record(lambda: self.backend.add_scalars(scalar_dict, step, file_path, **options))

    def add_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int = 0) -> None:
        """Record a table of texts."""
        self._record(lambda: self.backend.add_table(name, columns, rows, step))

    def close(self) -> None:
        """Close the backend."""
        self._record(self.backend.close)

    def _record(self, record: Callable[[], Any]) -> None:
        name = type(self.backend).__name__
        if self.missing and time.monotonic() - self._failed < _PAUSE:
            self.missing += 1
            return
        try:
            record()
        except (OSError, WriteError, RuntimeError) as error:
            cause = refusal(error)
            if cause is None and not isinstance(error, WriteError):
                raise
            if not self.missing:
                reason = error if cause is None else write_error(cause, cause.filename or self._save_dir)
                MMLogger.get_current_instance().warning(
                    f"{reason}; the training goes on, and records for {name} are left out"
                )
            self.missing += 1
            self._failed = time.monotonic()
            self.backend._env_initialized = False  # its files and threads are made anew
        else:
            if self.missing:
                MMLogger.get_current_instance().warning(f"{name} gets records again: {self.missing} are missing")
            self.missing = 0
