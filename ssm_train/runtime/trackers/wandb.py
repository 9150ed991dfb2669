"""Weights & Biases beside TensorBoard: the same names, the same values, the same axis."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.visualization.vis_backend import BaseVisBackend, force_init_env

from ssm_train.registry import VISBACKENDS
from ssm_train.runtime.files import write_text_atomically

AXIS = "iteration"  # what every chart is drawn over
IDENTITY = "wandb_run"  # the file in the work folder that names the run


@VISBACKENDS.register_module()
class WandbBackend(BaseVisBackend):
    """Logs scalars, the config and pictures to a run of Weights & Biases.

    Unlike mmengine's it draws all charts over training iterations, goes on in the run of a resumed training, and
    uploads no code (mmengine's collects every Python file beneath the current folder, an environment there included).
    ``WANDB_MODE=offline`` keeps everything in the run's folder, for ``wandb sync``.

    Args:
        save_dir: where the run's files go.
        project: the project.
        run_name: what the run is called.
        run_id: of the run; one that exists is gone on with. wandb chooses one if left out.
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
        """wandb's run."""
        return self._run

    @force_init_env
    def add_config(self, config: Config, **options: Any) -> None:
        """Log the config; a resumed run's may differ from what it began with."""
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
        """Log numbers of one moment; ``file_path`` is for backends that write files of their own."""
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


def run_identity(work_dir: str | Path, resume: bool) -> str:
    """The run's id at Weights & Biases: that of the training that is resumed, or a new one, which is noted.

    Args:
        work_dir: the training's folder.
        resume: whether it goes on with what is there.
    """
    file = Path(work_dir) / IDENTITY
    if resume and file.is_file():
        return file.read_text().strip()
    identity = secrets.token_hex(4)
    write_text_atomically(file, f"{identity}\n")
    return identity
