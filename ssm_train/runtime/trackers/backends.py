"""mmengine's places for scalars and pictures on this machine, which take tables of texts as well."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.visualization import LocalVisBackend, TensorboardVisBackend
from mmengine.visualization.vis_backend import force_init_env

from ssm_train.registry import VISBACKENDS
from ssm_train.runtime.files import write_text_atomically

Rows = Sequence[Sequence[str]]


def markdown(columns: Sequence[str], rows: Rows) -> str:
    """A table in Markdown; line breaks within a text become ``<br>``."""
    lines = [columns, ["---"] * len(columns), *([_cell(text) for text in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", "<br>")


@VISBACKENDS.register_module()
class LocalBackend(LocalVisBackend):
    """Files in the run's folder: mmengine's, and tables under ``vis_text``."""

    @force_init_env
    def add_table(self, name: str, columns: Sequence[str], rows: Rows, step: int = 0) -> None:
        """Write a table into a file of its own."""
        folder = Path(self._save_dir) / "vis_text"
        folder.mkdir(exist_ok=True)
        write_text_atomically(folder / f"{name}_{step}.md", markdown(columns, rows))


@VISBACKENDS.register_module()
class TensorboardBackend(TensorboardVisBackend):
    """TensorBoard's event file: mmengine's, and tables among the texts."""

    @force_init_env
    def add_table(self, name: str, columns: Sequence[str], rows: Rows, step: int = 0) -> None:
        """Log a table."""
        self._tensorboard.add_text(name, markdown(columns, rows), step)
