"""Training loops that can resume at any iteration."""

from typing import Any

from mmengine.hooks import EMAHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ssm_core.errors import CheckpointError, ConfigError
from ssm_train.registry import LOOPS
from ssm_train.runtime import continuing, pieces
from ssm_train.runtime.batches import Batches
from ssm_train.runtime.reproducibility import ResumableBatchSampler
from ssm_train.runtime.rescue import RescueHook


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's epoch loop, continued from any iteration as if it had never stopped.

    Every checkpoint has the numbers of completed epochs and iterations, and the place in the epoch follows from them.
    The batches before that place are not loaded. If a validation was due when the run was killed, it is run first.
    """

    def run(self) -> None:
        """Train to the last epoch, or until a hook sets ``stop_training``.

        Raises:
            CheckpointError: the run to resume had another number of iterations in an epoch, or its numbers of
                iterations and of epochs do not fit each other.
            ConfigError: the first validation would be after the end.
        """
        self._check_epoch_length()
        _check_span(self, self._epoch, "max_epochs", "epochs")
        continuing.remember(self.runner)
        self.runner.call_hook("before_train")
        self.runner.reports.start()
        if (
            self._validation_is_due()
            and self.runner.message_hub.runtime_info.get("last_epoch_validated") != self._epoch
        ):
            self._validate()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            if self._validation_is_due():
                self._validate()
        self.runner.call_hook("after_train")

    def run_epoch(self) -> None:
        """Train on the rest of the current epoch.

        Raises:
            CheckpointError: the run is resumed within an epoch, and the data loader cannot start there.
        """
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        done = self._iter - self._epoch * len(self.dataloader)
        if done and not isinstance(self.dataloader.batch_sampler, ResumableBatchSampler):
            raise CheckpointError(
                "this data loader cannot start within an epoch: resume from a checkpoint of the end of an epoch"
            )
        if done:
            self.dataloader.batch_sampler.skip(done)
        self.batches = _batches(self)
        for number, batch in enumerate(self.batches, start=done):
            self.run_iter(number, batch)
        self.runner.reports.settle()
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Train on a batch.

        Args:
            idx: number of the batch in the epoch, from 0.
            data_batch: the batch.
        """
        _run_iteration(self, idx, data_batch)

    def _validation_is_due(self) -> bool:
        last = self._epoch == self._max_epochs
        return (
            self.runner.val_loop is not None
            and self._epoch >= max(self.val_begin, 1)
            and (self._epoch % self.val_interval == 0 or last)
            and self._iter == self._epoch * len(self.dataloader)
        )

    def _validate(self) -> None:
        # Set before the validation, which writes the checkpoint of a new best score.
        self.runner.message_hub.update_info("last_epoch_validated", self._epoch)
        _validate_or_forget(self.runner, "last_epoch_validated")

    def _check_epoch_length(self) -> None:
        length = len(self.dataloader)
        before = self.runner.message_hub.runtime_info.get("epoch_length", length)
        if before != length:
            raise CheckpointError(
                f"the run to resume has {before} iterations an epoch and this config gives {length}: "
                "resume with the same data, batch size and number of processes"
            )
        if not 0 <= self._iter - self._epoch * length <= length:
            raise CheckpointError(
                f"the run to resume says that it has completed {self._iter} iterations and {self._epoch} epochs, and "
                f"an epoch has {length} iterations"
            )
        self.runner.message_hub.update_info("epoch_length", length)


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """mmengine's loop over the batches of an endless sampler, continued from any iteration as if it had never stopped.

    The batches before that iteration are not loaded. If a validation was due when the run was killed, it is run first.
    """

    def run(self) -> None:
        """Train to the last iteration, or until a hook sets ``stop_training``.

        Raises:
            CheckpointError: the data loader has no sampler to resume.
            ConfigError: the first validation would be after the end.
        """
        if not isinstance(self.dataloader.batch_sampler, ResumableBatchSampler):
            raise CheckpointError(
                "ResumableIterLoop needs a data loader with a sampler: give train_dataloader a dataset, not a stream"
            )
        _check_span(self, self._iter, "max_iters", "iterations")
        continuing.remember(self.runner)
        self.runner.call_hook("before_train")
        self.runner.reports.start()
        self.runner.call_hook("before_train_epoch")
        self.dataloader.batch_sampler.skip(self._iter)
        # A new iterator: the one from the base class began to load before it was known where the run resumes.
        self.dataloader_iterator = self.batches = _batches(self)
        if (
            self._validation_is_due()
            and self.runner.message_hub.runtime_info.get("last_iteration_validated") != self._iter
        ):
            self._validate()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if self._validation_is_due():
                self.runner.reports.settle()
                self._validate()
        self.runner.reports.settle()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")

    def run_iter(self, data_batch: Any) -> None:
        """Train on a batch."""
        _run_iteration(self, self._iter, data_batch)

    def _validation_is_due(self) -> bool:
        return (
            self.runner.val_loop is not None
            and self._iter >= max(self.val_begin, 1)
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        )

    def _validate(self) -> None:
        # Set before the validation, which writes the checkpoint of a new best score.
        self.runner.message_hub.update_info("last_iteration_validated", self._iter)
        _validate_or_forget(self.runner, "last_iteration_validated")


def _check_span(loop: EpochBasedTrainLoop | IterBasedTrainLoop, done: int, key: str, units: str) -> None:
    """Refuse a training that would never be validated, and say if nothing is left to train."""
    end = getattr(loop, key)
    if loop.runner.val_loop is not None and loop.val_begin > end:
        raise ConfigError(
            f"train_cfg.val_begin={loop.val_begin} is after train_cfg.{key}={end}: there would be no validation"
        )
    if done >= end:
        loop.runner.logger.warning(
            f"nothing is left to train: the run has completed its {end} {units}; give more as train_cfg.{key} to go on"
        )


def _run_iteration(loop: EpochBasedTrainLoop | IterBasedTrainLoop, number: int, batch: Any) -> None:
    """mmengine's ``run_iter``, which may compute a batch in pieces, and may run the hooks after it late."""
    runner = loop.runner
    runner.call_hook("before_train_iter", batch_idx=number, data_batch=batch)
    with runner.reports.step():
        outputs = pieces.train_step(runner, batch, number)
    runner.reports.add(number, batch, outputs)
    loop._iter += 1


def _batches(loop: EpochBasedTrainLoop | IterBasedTrainLoop) -> Batches:
    return Batches(loop.dataloader, next(loop.runner.bare_model.parameters()).device)


def _validate_or_forget(runner: Runner, mark: str) -> None:
    """Validate. If a signal or an error stops it, put back the state of before: not validated, with its own weights.

    Args:
        runner: the Runner.
        mark: name of the information in the message hub that the validation was made.
    """
    try:
        runner.val_loop.run()
    except Exception:
        runner.message_hub.runtime_info.pop(mark)
        for hook in runner.hooks:
            if isinstance(hook, EMAHook | RescueHook):
                hook.after_val_epoch(runner)  # the averaged weights are in the model, and go back
        raise


def is_shown(runner: Runner) -> bool:
    """Whether the current validation shows pictures and texts: the first, second, fourth, eighth … and last one do.

    Those of every validation would be too many in a long run.
    """
    by_epoch = "max_epochs" in runner.cfg.train_cfg
    place, end = (runner.epoch, runner.max_epochs) if by_epoch else (runner.iter, runner.max_iters)
    number = max(place // runner.train_loop.val_interval, 1)
    return number & (number - 1) == 0 or place >= end
