"""A backend for Weights & Biases, with the same names, values and axis as TensorBoard."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.visualization.vis_backend import BaseVisBackend, force_init_env

from ssm_train.registry import VISBACKENDS
from ssm_train.runtime.files import write_text_atomically

AXIS = "iteration"  # x axis of every chart
IDENTITY = "wandb_run"  # file in the work folder that holds the id of the run
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@VISBACKENDS.register_module()
class WandbBackend(BaseVisBackend):
    """Logs scalars, the config and pictures to a run of Weights & Biases.

    It differs from mmengine's backend in three ways. It draws all charts over training iterations. It continues the run
    of a training that is resumed. It uploads no code, while mmengine's uploads every Python file in and below the
    current folder, even those of an environment. ``WANDB_MODE=offline`` keeps everything in the folder of the run, for
    ``wandb sync``.

    Args:
        save_dir: folder for the files of the run.
        project: name of the project.
        run_name: name of the run.
        run_id: id of the run. A run of this id is continued if it exists. wandb chooses an id if left out.
    """

    def __init__(self, save_dir: str, project: str, run_name: str, run_id: str | None = None):
        super().__init__(save_dir)
        self._settings = {"project": project, "name": run_name, "id": run_id, "dir": save_dir}
        self._run: Any = None

    def _init_env(self) -> None:
        import wandb

        Path(self._save_dir).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(**self._settings, resume="allow" if self._settings["id"] else None)
        self._image, self._table = wandb.Image, wandb.Table
        self._run.define_metric(AXIS)
        self._run.define_metric("*", step_metric=AXIS)

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The run object of wandb."""
        return self._run

    @force_init_env
    def add_config(self, config: Config, **options: Any) -> None:
        """Log the config. The config of a resumed run may differ from the one that it began with."""
        self._run.config.update(config.to_dict(), allow_val_change=True)

    @force_init_env
    def add_image(
        self,
        name: str,
        image: np.ndarray,  # [H, W, 3] uint8
        step: int = 0,
        **options: Any,
    ) -> None:
        """Log a picture."""
        self._run.log({name: self._image(image), AXIS: step})

    @force_init_env
    def add_scalar(self, name: str, value: float, step: int = 0, **options: Any) -> None:
        """Log a number."""
        self._run.log({name: value, AXIS: step})

    @force_init_env
    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **options: Any) -> None:
        """Log several numbers of one step. ``file_path`` is not used; other backends write a file there."""
        self._run.log({**scalar_dict, AXIS: step})

    @force_init_env
    def add_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int = 0) -> None:
        """Log a table of texts."""
        self._run.log({name: self._table(columns=list(columns), data=[list(row) for row in rows]), AXIS: step})

    def close(self) -> None:
        """End the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None
            self._env_initialized = False


def known_identity(work_dir: str | Path) -> str | None:
    """The id of the run of Weights & Biases that the training in a folder began.

    Args:
        work_dir: work folder of the training.

    Returns:
        The id; None if there is none, or if the folder is a copy, whose training is another run than the original's.
    """
    file = Path(work_dir) / IDENTITY
    if not file.is_file():
        return None
    try:
        identity, *inode = file.read_text().split()
        original = not inode or inode == [str(os.stat(work_dir).st_ino)]
    except (OSError, ValueError):
        return None
    return identity if original and _ID.fullmatch(identity) else None


def keep_identity(work_dir: str | Path, identity: str) -> None:
    """Write the id of a run into the work folder of its training.

    The file also holds the number of the folder in the file system. A copy has another one, a renamed folder the same.
    """
    write_text_atomically(Path(work_dir) / IDENTITY, f"{identity} {os.stat(work_dir).st_ino}\n")
