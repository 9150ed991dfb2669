"""mmengine's local backends for scalars and pictures, extended by tables of texts. What is not written is an error."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.fileio import dump
from mmengine.visualization import LocalVisBackend, TensorboardVisBackend
from mmengine.visualization.vis_backend import force_init_env
from PIL import Image

from ssm_train.data.images import write_png
from ssm_train.registry import VISBACKENDS
from ssm_train.runtime.files import append, make_folder, write_text_atomically

Rows = Sequence[Sequence[str]]


def markdown(columns: Sequence[str], rows: Rows) -> str:
    """Format a table in Markdown. Line breaks within a cell become ``<br>``.

    Args:
        columns: titles of the columns.
        rows: cells of each row.
    """
    lines = [columns, ["---"] * len(columns), *([_cell(text) for text in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", "<br>")


@VISBACKENDS.register_module()
class LocalBackend(LocalVisBackend):
    """mmengine's files in the folder of the run, and tables in ``vis_text``.

    mmengine would leave a part of a line where the disk is full, and no word of a picture that was not written.
    """

    @force_init_env
    def add_image(
        self,
        name: str,
        image: np.ndarray,  # [H, W, 3] uint8
        step: int = 0,
        **options: Any,
    ) -> None:
        """Write a picture into its own file ``NAME_STEP.png``."""
        write_png(Path(self._img_save_dir) / f"{name}_{step}.png", Image.fromarray(image))

    @force_init_env
    def add_table(self, name: str, columns: Sequence[str], rows: Rows, step: int = 0) -> None:
        """Write a table into its own file ``NAME_STEP.md``."""
        write_text_atomically(Path(self._save_dir) / "vis_text" / f"{name}_{step}.md", markdown(columns, rows))

    def _dump(self, value_dict: dict, file_path: str, file_format: str) -> None:
        append(file_path, dump(value_dict, file_format=file_format) + "\n")


@VISBACKENDS.register_module()
class TensorboardBackend(TensorboardVisBackend):
    """mmengine's event file for TensorBoard, which shows tables among its texts."""

    def _init_env(self) -> None:
        """Begin an event file. None is left behind if it cannot be written."""
        make_folder(self._save_dir)
        before = set(_events(self._save_dir))
        try:
            super()._init_env()
        except OSError:
            for path in set(_events(self._save_dir)) - before:
                path.unlink(missing_ok=True)
            raise

    @force_init_env
    def add_table(self, name: str, columns: Sequence[str], rows: Rows, step: int = 0) -> None:
        """Add a table to the event file."""
        self._tensorboard.add_text(name, markdown(columns, rows), step)


def _events(folder: str) -> list[Path]:
    return list(Path(folder).glob("events.out.tfevents.*"))
