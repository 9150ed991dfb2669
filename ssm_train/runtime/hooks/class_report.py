"""A hook that writes what the metrics know of every class."""

from numbers import Real
from pathlib import Path

import numpy as np
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from ssm_core.writing import WriteError
from ssm_train.registry import HOOKS
from ssm_train.runtime.class_report import ClassReport
from ssm_train.runtime.files import remove_leftovers, write_atomically, write_text_atomically
from ssm_train.runtime.strict_json import strict_json

FOLDER = "evaluation"


@HOOKS.register_module()
class ClassReportHook(Hook):
    """Writes the figures of every class and the confusion matrix into ``evaluation/`` of the work folder.

    ``val_classes.csv`` and ``val_confusion.csv`` are of the newest validation, ``test_classes.csv`` and
    ``test_confusion.csv`` of a test, which also writes all its metrics into ``test.json``. The matrix is drawn as
    ``val_confusion.png`` when a training ends, and as ``test_confusion.png``. The pictures also go to TensorBoard and
    Weights & Biases. Metrics without figures of classes write nothing. A full disk ends a test, and not a training.

    Args:
        picture: whether to draw the matrix.
    """

    # The hook runs after the metrics are known.
    priority = "LOW"

    def __init__(self, picture: bool = True):
        self.picture = picture

    def before_train(self, runner: Runner) -> None:
        """Delete the temporary files that a killed process of this run left."""
        if is_main_process():
            remove_leftovers(self._folder(runner))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the figures of the classes. If they cannot be written, the training goes on without them."""
        try:
            self._write(runner, "val", runner.val_evaluator)
        except WriteError as error:
            runner.logger.warning(f"{error}; the training goes on")

    def after_train(self, runner: Runner) -> None:
        """Draw the matrix of the last validation, if it can be written."""
        if runner.val_loop is None:
            return
        try:
            self._draw(runner, "val", runner.val_loop.evaluator)
        except WriteError as error:
            runner.logger.warning(str(error))

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write and draw what a test has found."""
        self._write(runner, "test", runner.test_evaluator)
        self._draw(runner, "test", runner.test_evaluator)
        if is_main_process():
            numbers = {name: float(value) for name, value in (metrics or {}).items() if isinstance(value, Real)}
            write_text_atomically(self._folder(runner) / "test.json", strict_json(numbers, indent=1))

    def _write(self, runner: Runner, split: str, evaluator: Evaluator) -> None:
        for name, report in _reports(split, evaluator):
            report.write(self._folder(runner), name)

    def _draw(self, runner: Runner, split: str, evaluator: Evaluator) -> None:
        from ssm_core.visualization import save

        for name, report in _reports(split, evaluator) if self.picture else ():
            figure = report.draw()
            if figure is not None:
                path = self._folder(runner) / f"{name}_confusion.png"
                write_atomically(path, lambda file, figure=figure: save(figure, file, "png"))
                picture = np.asarray(Image.open(path).convert("RGB"))
                runner.visualizer.add_image(f"{name}_confusion", picture, runner.iter)

    def _folder(self, runner: Runner) -> Path:
        folder = Path(runner.work_dir) / FOLDER
        if folder.is_symlink():  # to a folder elsewhere, as in a copy that is made of links
            folder.unlink(missing_ok=True)
        return folder


def _reports(split: str, evaluator: Evaluator) -> list[tuple[str, ClassReport]]:
    """The reports of all metrics with the beginnings of their files' names. Only the main process has any."""
    found = [getattr(metric, "report", None) for metric in evaluator.metrics]
    reports = [report for report in found if isinstance(report, ClassReport)] if is_main_process() else []
    return [(f"{split}{number or ''}", report) for number, report in enumerate(reports)]
