"""A hook that writes the learning curves of a run into one file, which resuming continues."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from torch import Tensor, distributed

from ssm_core.errors import DataError
from ssm_core.writing import WriteError
from ssm_train.registry import HOOKS
from ssm_train.runtime.curve_files import CURVES, CURVES_PICTURE, read_curves
from ssm_train.runtime.files import set_aside, write_atomically, write_text_atomically
from ssm_train.runtime.runner import Runner
from ssm_train.runtime.strict_json import strict_json

_LOSSES = "curve_losses"  # where a state has the losses since the last point
_PATIENCE = 5.0  # seconds to wait for other processes before a state is saved, one of which may be lost


@HOOKS.register_module()
class CurvesHook(Hook):
    """Writes ``curves.json`` into the work folder, and a picture ``curves.png`` at the end.

    The file holds ``{"train": [{"iter", "epoch", "lr", "loss"}], "val": [{"iter", "epoch", metric: value}]}``. A value
    that is not finite is null. A loss is the mean over ``interval`` iterations and all processes. The file is written
    at every validation and every checkpoint. A resumed run drops the points after its checkpoint and continues from
    there. The losses since the last point are in the checkpoint. If the file is damaged, it is kept as
    ``curves.json.damaged``, and the curves begin where the run is resumed.

    Args:
        interval: number of iterations for each point of the training curve.
        plot: whether to draw the picture.
    """

    runs_late = True

    # The hook runs after the metrics are known, and before the checkpoint hook asks for a state.
    priority = "LOW"

    def __init__(self, interval: int = 10, plot: bool = True):
        self.interval = interval
        self.plot = plot
        self.curves: dict[str, list[dict]] = {"train": [], "val": []}
        self._losses: list[float] = []  # since the last point, of all processes
        self._group: Any = None
        self._exchange: tuple[Tensor, Any] | None = None  # of the last loss, on the CPU beside the next iteration

    def before_train(self, runner: Runner) -> None:
        """Read the curves of the run that is resumed."""
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            self._group = distributed.new_group(backend="gloo")
        losses = runner.message_hub.runtime_info.get(_LOSSES)
        if isinstance(losses, list) and all(isinstance(loss, float) for loss in losses):
            self._losses = list(losses)
        found = [self._read(runner) if is_main_process() else None]
        broadcast_object_list(found)
        self.curves = found[0]

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Add a point to the training curve every ``interval`` iterations."""
        self._add(float(runner.message_hub.get_scalar("train/loss").current()))
        if (runner.iter + 1) % self.interval == 0 or runner.iter + 1 == runner.max_iters:
            with suppress(RuntimeError):  # as in _add
                self._collect()
            if not self._losses:
                return
            point = {"iter": runner.iter + 1, "epoch": runner.epoch + 1, "lr": runner.optim_wrapper.get_lr()["lr"][0]}
            self.curves["train"].append({**point, "loss": sum(self._losses) / len(self._losses)})
            self._losses.clear()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add a point to every validation curve."""
        numbers = {k: float(v) for k, v in (metrics or {}).items() if isinstance(v, Real)}
        point = {"iter": runner.iter, "epoch": runner.epoch, **numbers}
        self.curves["val"] = [p for p in self.curves["val"] if p["iter"] != runner.iter] + [point]
        self._write(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the file, so that it reaches at least as far as the checkpoint, and save the losses since."""
        with suppress(RuntimeError):  # another process is lost
            self._collect(_PATIENCE)
        checkpoint["message_hub"]["runtime_info"][_LOSSES] = list(self._losses)
        self._write(runner)

    def after_train(self, runner: Runner) -> None:
        """Write the file and the picture."""
        self._write(runner)
        if self.plot and is_main_process():
            from ssm_core.visualization import save
            from ssm_train.runtime.curve_figures import draw_run

            figure = draw_run(self.curves)
            path = Path(runner.work_dir) / CURVES_PICTURE
            _try(runner, path, lambda: write_atomically(path, lambda file: save(figure, file, "png", dpi=150)))

    def _add(self, loss: float) -> None:
        """Begin to average a loss over the processes."""
        if self._group is None:
            self._losses.append(loss)
            return
        value = torch.tensor(loss, dtype=torch.float64)
        # If another process is lost, the iteration is complete all the same. The next one ends the run.
        with suppress(RuntimeError):
            self._collect()
            self._exchange = value, distributed.all_reduce(value, group=self._group, async_op=True)

    def _collect(self, seconds: float | None = None) -> None:
        """Take the loss of which the exchange has begun. Leave it if the exchange does not end in time."""
        if self._exchange is None:
            return
        value, work = self._exchange
        end = None if seconds is None else time.monotonic() + seconds
        while end is not None and not work.is_completed():
            if time.monotonic() > end:
                return
            time.sleep(0.01)
        work.wait()
        self._losses.append(value.item() / distributed.get_world_size(self._group))
        self._exchange = None

    def _write(self, runner: Runner) -> None:
        if is_main_process():
            path = Path(runner.work_dir) / CURVES
            _try(runner, path, lambda: write_text_atomically(path, strict_json(self.curves)))

    def _read(self, runner: Runner) -> dict[str, list[dict]]:
        """The curves up to the iteration that the run goes on from. A damaged file is kept under another name."""
        path = Path(runner.work_dir) / CURVES
        before: dict[str, list[dict]] = {"train": [], "val": []}
        try:
            before = read_curves(runner.work_dir) if os.path.lexists(path) else before
        except DataError as error:
            kept = set_aside(path)
            runner.logger.warning(f"{error}; the curves begin anew, and the file is kept as {kept.name}")
        return {part: [point for point in points if point["iter"] <= runner.iter] for part, points in before.items()}


def _try(runner: Runner, path: Path, write: Callable[[], None]) -> None:
    """Write a file. If that fails, the training goes on, and fails at its end unless the file is written by then."""
    missing = runner.states.missing
    try:
        write()
    except WriteError as error:
        if path.name not in missing:
            runner.logger.warning(f"{error}; the training goes on, and the next checkpoint tries again")
        missing[path.name] = error
    else:
        missing.pop(path.name, None)
