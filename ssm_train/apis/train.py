"""Training and testing from Python, on the path that the command-line tools take."""

import math
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.optim import OptimWrapper

from ssm_core.errors import ConfigError, DataError
from ssm_core.writing import explained
from ssm_train.apis.shipped_weights import shipped_with
from ssm_train.data.workers import left_out
from ssm_train.runtime.building import building_from_config
from ssm_train.runtime.config import changed
from ssm_train.runtime.evaluator import not_measured
from ssm_train.runtime.files import check_folder
from ssm_train.runtime.hooks import CurvesHook
from ssm_train.runtime.launching import join_processes
from ssm_train.runtime.loading_processes import too_many
from ssm_train.runtime.logs import threads_may_fail_to_write
from ssm_train.runtime.runner import Runner
from ssm_train.runtime.schedules import check_units, schedule_warning
from ssm_train.runtime.trackers.wandb import known_identity
from ssm_train.runtime.work_folder import Start, WorkFolder, claimed
from ssm_train.tasks import task_of


@dataclass(frozen=True)
class TrainingResult:
    """What came of a run.

    Attributes:
        work_dir: the folder with checkpoints, logs and ``curves.json``.
        curves: points of the training and the validation curves, as :class:`CurvesHook` writes them.
    """

    work_dir: Path
    curves: dict[str, list[dict]]

    def last(self, metric: str = "top1") -> float | None:
        """A metric at the last validation that had it; None if none had."""
        points = [point for point in self.curves["val"] if metric in point]
        return points[-1][metric] if points else None

    def best(
        self, metric: str = "top1", counted_in: Literal["epoch", "iter"] = "epoch", lowest: bool = False
    ) -> tuple[float, int] | None:
        """The best value of a metric, and the epoch or the iteration after which it was reached.

        Args:
            metric: its name.
            counted_in: whether epochs or iterations are counted.
            lowest: whether the lowest value is the best one.

        Returns:
            The value and the count; None if no validation measured the metric.
        """
        points = [point for point in self.curves["val"] if not math.isnan(point.get(metric, math.nan))]
        top = (min if lowest else max)(points, key=lambda point: point[metric], default=None)
        return (top[metric], top[counted_in]) if top else None

    def describe(self, cfg: Config) -> str:
        """The last and the best value of the metric that a config chooses its best checkpoint by, in a line.

        Args:
            cfg: the config of the run.
        """
        checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
        metric, lowest = checkpoint.get("save_best"), checkpoint.get("rule") == "less"
        counted_in: Literal["epoch", "iter"] = "epoch" if "max_epochs" in cfg.train_cfg else "iter"
        best = self.best(metric, counted_in, lowest) if isinstance(metric, str) else None
        if best is None:
            tried = isinstance(metric, str) and self.last(metric) is not None
            return f"done{f', but no validation could measure {metric}' if tried else ''}, in {self.work_dir}"
        name, unit = ("top-1", " %") if metric == "top1" else (metric, "")
        place = f"{'epoch' if counted_in == 'epoch' else 'iteration'} {best[1]}"
        return f"{name} {self.last(metric):.4g}{unit}, best {best[0]:.4g}{unit} after {place}, in {self.work_dir}"


def train(
    cfg: Config,
    resume: bool | str | Path = False,
    *,
    overwrite: bool = False,
    fresh: bool = False,
    or_begin: bool = False,
    keep_updates: bool = False,
    new_schedule: bool = False,
    time_iterations: int = 0,
) -> TrainingResult:
    """Train what a config describes.

    The work folder belongs to this run until it ends. If another run was there, ``resume``, ``overwrite`` or ``fresh``
    has to say what to do (docs/resuming.md).

    Args:
        cfg: see :func:`.config.load_config`; ``work_dir`` has to be set.
        resume: continue the run of a checkpoint file, or with True of the newest good one in the work folder.
        overwrite: delete the files of the run that was there.
        fresh: train in a new folder ``run_N`` within the work folder.
        or_begin: with ``resume=True``: begin without a warning if there is no run to continue.
        keep_updates: continue a run of other processes, batch size or accumulation with the same samples in each
            update. Their product has to be the same, unless the number of processes alone is another one.
        new_schedule: follow the schedule of the config where that of the run to continue differs.
        time_iterations: number of iterations after which a table says where their time goes; 0 for no table.

    Raises:
        UserError: the config, the data, a checkpoint, the work folder or the machine is not right; the message says
            what.
    """
    start = Start(resume, overwrite, fresh, or_begin)
    check_folder(cfg.work_dir)
    check_units(cfg)
    if (launcher := cfg.get("launcher", "none")) != "none":
        with building_from_config():
            join_processes(launcher, cfg.get("env_cfg", {}))
    with claimed(cfg.work_dir, start) as folder:
        return _train(cfg, start, folder, keep_updates, new_schedule, time_iterations)


def _train(
    cfg: Config, start: Start, folder: WorkFolder, keep_updates: bool, new_schedule: bool, time_iterations: int
) -> TrainingResult:
    start_from = cfg.get("load_from")
    load_from = start.file if start.resume else start_from
    values = {
        "resume": bool(start.resume),
        "load_from": None if load_from is None else str(load_from),
        "work_dir": str(folder.path),
    }
    if (cfg.get("visualizer") or {}).get("wandb") and is_main_process():
        folder.tracked_as = (known_identity(folder.path) if start.resume else None) or secrets.token_hex(4)
        values["visualizer"] = {"wandb_id": folder.tracked_as, **cfg.visualizer}
    with explained(folder.path), threads_may_fail_to_write(), building_from_config():
        runner = Runner.from_cfg(changed(cfg, values))
        runner.start_from, runner.folder = start_from, folder
        runner.may_begin = start.or_begin
        runner.keep_updates, runner.new_schedule = keep_updates, new_schedule
        runner.time_iterations = time_iterations
        if runner.train_loop is None:
            raise ConfigError(
                "the config has no train_dataloader, train_cfg and optim_wrapper: there is nothing to train"
            )
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        if isinstance(runner.optim_wrapper, OptimWrapper) and not any(map(max, runner.optim_wrapper.get_lr().values())):
            runner.logger.warning("optim_wrapper.optimizer.lr is 0: nothing is learnt, unless a schedule sets a rate")
        if words := schedule_warning(cfg):
            runner.logger.warning(words)
        if words := too_many({key: cfg.get(key) for key in ("train_dataloader", "val_dataloader")}):
            runner.logger.info(words)
        if words := left_out(runner.train_dataloader, runner.world_size):
            runner.logger.info(words)
        _ = runner.val_loop  # built here, so that a missing validation set is known before training
    try:
        runner.train()
    finally:
        runner.stop_workers()
    curves = next((hook.curves for hook in runner.hooks if isinstance(hook, CurvesHook)), {"train": [], "val": []})
    return TrainingResult(Path(runner.work_dir), curves)


def test(
    cfg: Config,
    checkpoint: str | Path | None,
    out: str | Path | None = None,  # noqa: PT028  it is no test
) -> dict[str, float]:
    """Evaluate a checkpoint on the test set of a config.

    Args:
        cfg: see :func:`.config.load_config`; ``work_dir`` has to be set.
        checkpoint: file of the weights; None for a network that comes with weights, as language models do, or to take
            those that come with the package for this config.
        out: where the predictions are written, see :meth:`.Task.prediction_writer`; None writes none.

    Returns:
        The metrics by name. Shares are percentages, but COCO's precisions go from 0 to 1.

    Raises:
        UserError: the config, the data, the checkpoint or the machine is not right; the message says what.
    """
    task = task_of(cfg)
    if checkpoint is None and (row := shipped_with(cfg)) is not None:
        checkpoint = row.checked()
    if checkpoint is None and not task.comes_with_weights:
        raise ConfigError("there are no weights to test: name a checkpoint, since this config's network has none")
    load_from = None if checkpoint is None else str(checkpoint)
    writer = None if out is None else task.prediction_writer(Path(out))
    check_folder(cfg.work_dir)
    with explained(cfg.work_dir), threads_may_fail_to_write(), building_from_config():
        runner = Runner.from_cfg(changed(cfg, {"resume": False, "load_from": load_from}))
        if runner.test_loop is None:
            raise ConfigError(
                "the config has no test_dataloader, test_cfg and test_evaluator: there is nothing to test"
            )
        if writer is not None:
            writer.dataset = runner.test_dataloader.dataset
            runner.test_evaluator.metrics.append(writer)
        if words := too_many({"test_dataloader": cfg.get("test_dataloader")}):
            runner.logger.info(words)
    try:
        metrics = runner.test()
    finally:
        runner.stop_workers()
    if len(not_measured(metrics)) == len(metrics):
        raise DataError(
            f"nothing was measured: {', '.join(metrics)} {'is' if len(metrics) == 1 else 'are'} NaN"
            if metrics
            else "nothing was measured: the test_evaluator gives no metric of these data"
        )
    return metrics


test.__test__ = False  # pytest would collect it
