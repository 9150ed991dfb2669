"""A hook that saves checkpoints in such an order that a good one always exists."""

import os
from collections import deque
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ssm_core.errors import ConfigError, nearest
from ssm_core.writing import WriteError
from ssm_train.registry import HOOKS
from ssm_train.runtime.checkpoints import point_to
from ssm_train.runtime.files import remove_file, remove_leftovers
from ssm_train.runtime.occupants import BEST


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's hook, which also writes the pointer to the last checkpoint atomically.

    It deletes an old checkpoint only after the new one is on the disk. Where a new one cannot be written, the training
    goes on (:class:`.StateFiles`), and fails at its end if the last or the best one is missing then.

    Args:
        interval: number of epochs from one checkpoint to the next, or of iterations with ``by_epoch=False``; -1 for
            none.
        by_epoch: whether ``interval`` counts epochs, and file names have the epoch.
        max_keep_ckpts: number of checkpoints to keep; -1 for all.
        save_best: metrics whose best checkpoint is kept as well, without the state of the optimizer.
        rule: whether ``"greater"`` or ``"less"`` is better, for each of these metrics; guessed from their names if left
            out.
        save_last: whether to save at the end of training in any case.
        save_begin: the first epoch or iteration after which a checkpoint is saved.

    Raises:
        ConfigError: ``interval`` or ``max_keep_ckpts`` is 0, or nothing would ever be saved.
    """

    runs_late = True

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        max_keep_ckpts: int = -1,
        save_best: str | list[str] | None = None,
        rule: str | list[str] | None = None,
        save_last: bool = True,
        save_begin: int = 0,
    ):
        for name, value in (("interval", interval), ("max_keep_ckpts", max_keep_ckpts)):
            if value == 0 or value < -1:
                meaning = "no checkpoints but the last" if name == "interval" else "all"
                raise ConfigError(
                    f"default_hooks.checkpoint.{name} has to be 1 or more, or -1 for {meaning}, not {value}"
                )
        if interval == -1 and not save_last and save_best is None:
            raise ConfigError(
                "default_hooks.checkpoint would save nothing of the training: give an interval, save_last=True or "
                "save_best"
            )
        super().__init__(
            interval,
            by_epoch,
            max_keep_ckpts=max_keep_ckpts,
            save_best=save_best,
            rule=rule,
            save_last=save_last,
            save_begin=save_begin,
        )

    def before_train(self, runner: Runner) -> None:
        """Check the interval, and delete files that a killed run left half-written.

        Raises:
            ConfigError: a checkpoint would be saved between the iterations whose gradients make one update.
        """
        counts = runner.iterations_of_update
        if not self.by_epoch and self.interval % counts:
            raise ConfigError(
                f"default_hooks.checkpoint.interval={self.interval} would save between the {counts} iterations whose "
                f"gradients make one update: take a multiple of {counts}"
            )
        self.out_dir = runner.work_dir
        self.file_backend = LocalBackend()
        known = runner.message_hub.runtime_info
        if self.save_best is not None and len(self.key_indicators) == 1:
            self.best_ckpt_path = self._in_this_folder(known.get("best_ckpt"))
        elif self.save_best is not None:
            names = {key: known.get(f"best_ckpt_{key}") for key in self.key_indicators}
            self.best_ckpt_path_dict = {key: self._in_this_folder(name) for key, name in names.items()}
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(known.get("keep_ckpt_ids", []), self.max_keep_ckpts)
        if is_main_process():
            remove_leftovers(self.out_dir)

    def _in_this_folder(self, saved: str | None) -> str | None:
        """The path of a best checkpoint, from what the state of a run says of it.

        The run may have been in another folder, which this one must not touch. Earlier releases saved the whole path.
        """
        name = os.path.basename(saved or "")
        return str(Path(self.out_dir) / name) if BEST.fullmatch(name) else None

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated, before = [], (list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else [], self.last_ckpt)
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated.append(self.keep_ckpt_ids[0])
            self.keep_ckpt_ids.append(step)  # the deque has this maximum length, and drops its first item
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        path = Path(self.out_dir) / self.filename_tmpl.format(step)
        self.last_ckpt = str(path)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        try:
            runner.save_checkpoint(
                self.out_dir,
                path.name,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
            )
        except WriteError as error:
            kept, self.last_ckpt = before
            if self.max_keep_ckpts > 0:
                self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
                runner.message_hub.update_info("keep_ckpt_ids", kept)
            if is_main_process():
                runner.states.failed(error, meta["iter"])
            return
        if is_main_process():
            point_to(path)
            for number in outdated:
                remove_file(path.with_name(self.filename_tmpl.format(number)))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        for name in self.key_indicators if self.save_best is not None else ():
            if name != "auto" and name not in metrics:
                raise ConfigError(
                    f"default_hooks.checkpoint.save_best is {name!r}, which the validation does not measure"
                    f"{nearest(name, metrics)}: it gives {', '.join(metrics)}"
                )
        known = runner.message_hub.runtime_info
        scores = {key: value for key, value in known.items() if key.startswith("best_")}
        paths = dict(self._best_paths())
        self.file_backend = removals = _LaterRemovals()
        try:
            super()._save_best_checkpoint(runner, metrics)
        except WriteError as error:
            for key in [key for key in known if key.startswith("best_")]:
                known.pop(key)
            known.update(scores)
            if hasattr(self, "best_ckpt_path_dict"):
                self.best_ckpt_path_dict = paths
            else:
                self.best_ckpt_path = paths[""]
            runner.states.missing["best checkpoint"] = error
            runner.logger.warning(f"the best checkpoint is not saved: {error}; the training goes on")
            return
        finally:
            self.file_backend = LocalBackend()
        if self._best_paths() != paths:
            runner.states.missing.pop("best checkpoint", None)
        for path in removals.paths - set(self._best_paths().values()):
            remove_file(Path(path))

    def _best_paths(self) -> dict[str, str | None]:
        """The best checkpoint by metric; the metric is empty if there is only one."""
        several = getattr(self, "best_ckpt_path_dict", None)
        return dict(several) if several is not None else {"": getattr(self, "best_ckpt_path", None)}


class _LaterRemovals(LocalBackend):
    """Remembers which files are to be deleted.

    mmengine deletes the best checkpoint before it writes a better one.
    """

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def remove(self, filepath: str | Path) -> None:
        self.paths.add(str(filepath))
