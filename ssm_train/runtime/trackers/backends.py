"""mmengine's local backends for scalars and pictures, extended by tables of texts."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.visualization import LocalVisBackend, TensorboardVisBackend
from mmengine.visualization.vis_backend import force_init_env

from ssm_train.registry import VISBACKENDS
from ssm_train.runtime.files import write_text_atomically

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
    """mmengine's files in the folder of the run, and tables in ``vis_text``."""

    @force_init_env
    def add_table(self, name: str, columns: Sequence[str], rows: Rows, step: int = 0) -> None:
        """Write a table into its own file ``NAME_STEP.md``."""
        folder = Path(self._save_dir) / "vis_text"
        folder.mkdir(exist_ok=True)
        write_text_atomically(folder / f"{name}_{step}.md", markdown(columns, rows))


@VISBACKENDS.register_module()
class TensorboardBackend(TensorboardVisBackend):
    """mmengine's event file for TensorBoard, which shows tables among its texts."""

    @force_init_env
    def add_table(self, name: str, columns: Sequence[str], rows: Rows, step: int = 0) -> None:
        """Add a table to the event file."""
        self._tensorboard.add_text(name, markdown(columns, rows), step)
