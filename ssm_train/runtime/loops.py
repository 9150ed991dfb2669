"""Training loops that can start anywhere."""

from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ssm_core.errors import CheckpointError
from ssm_train.registry import LOOPS
from ssm_train.runtime.reproducibility import ResumableBatchSampler


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's epoch loop, continued from any iteration as if it had never stopped.

    The place in the epoch follows from the completed epochs and iterations that every checkpoint has. The batches
    before it are not loaded. A validation that was due when the run was killed is made up for.
    """

    def run(self) -> None:
        """Train to the last epoch, or to where a hook sets ``stop_training``."""
        self._check_epoch_length()
        self.runner.call_hook("before_train")
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
        """Train on what is left of the current epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        done = self._iter - self._epoch * len(self.dataloader)
        if done and not isinstance(self.dataloader.batch_sampler, ResumableBatchSampler):
            raise CheckpointError(
                "this data loader cannot start in mid-epoch: resume from a checkpoint of an epoch's end"
            )
        if done:
            self.dataloader.batch_sampler.skip(done)
        for number, batch in enumerate(self.dataloader, start=done):
            self.run_iter(number, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def _validation_is_due(self) -> bool:
        last = self._epoch == self._max_epochs
        return (
            self.runner.val_loop is not None
            and self._epoch >= max(self.val_begin, 1)
            and (self._epoch % self.val_interval == 0 or last)
            and self._iter == self._epoch * len(self.dataloader)
        )

    def _validate(self) -> None:
        # Set first: the checkpoint of a new best score is written inside.
        self.runner.message_hub.update_info("last_epoch_validated", self._epoch)
        self.runner.val_loop.run()

    def _check_epoch_length(self) -> None:
        length = len(self.dataloader)
        before = self.runner.message_hub.runtime_info.get("epoch_length", length)
        if before != length:
            raise CheckpointError(
                f"the run to resume has {before} iterations an epoch and this config gives {length}: "
                "resume with the same data, batch size and number of processes"
            )
        self.runner.message_hub.update_info("epoch_length", length)


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """mmengine's loop over iterations of an endless sampler, continued from any of them as if it had never stopped.

    The batches before the first are not loaded. A validation that was due when the run was killed is made up for.
    """

    def run(self) -> None:
        """Train to the last iteration, or to where a hook sets ``stop_training``."""
        if not isinstance(self.dataloader.batch_sampler, ResumableBatchSampler):
            raise CheckpointError("a loop over iterations needs a data loader with a sampler of its own, not a stream")
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self.dataloader.batch_sampler.skip(self._iter)
        # Not the iterator that the base class has made: it has begun to load before the run to resume was known.
        self.dataloader_iterator = iter(self.dataloader)
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
                self._validate()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")

    def _validation_is_due(self) -> bool:
        return (
            self.runner.val_loop is not None
            and self._iter >= max(self.val_begin, 1)
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        )

    def _validate(self) -> None:
        # Set first: the checkpoint of a new best score is written inside.
        self.runner.message_hub.update_info("last_iteration_validated", self._iter)
        self.runner.val_loop.run()


def is_shown(runner: Runner) -> bool:
    """Whether a validation's pictures and texts are shown: the first, second, fourth, eighth … and the last.

    A long run would drown in those of every validation.
    """
    by_epoch = "max_epochs" in runner.cfg.train_cfg
    place, end = (runner.epoch, runner.max_epochs) if by_epoch else (runner.iter, runner.max_iters)
    number = max(place // runner.train_loop.val_interval, 1)
    return number & (number - 1) == 0 or place >= end
