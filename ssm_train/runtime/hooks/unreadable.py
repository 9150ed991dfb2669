"""A hook that names and counts the unreadable images of a training."""

from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ssm_train.data.collate import unreadable_in
from ssm_train.registry import HOOKS

_SEEN = "unreadable_images"  # where a state has their names


@HOOKS.register_module()
class UnreadableImagesHook(Hook):
    """Warns once about every unreadable training image, and gives their number when the run ends or is stopped.

    The number is of all processes, and of the run before it was resumed.
    """

    runs_late = True

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Know the images that the run met before it was resumed."""
        before = runner.message_hub.runtime_info.get(_SEEN)
        if isinstance(before, list) and all(isinstance(problem, str) for problem in before):
            self.seen.update(before)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Warn about the unreadable images of the batch that were not seen before."""
        for problem in unreadable_in(data_batch):
            if problem not in self.seen:
                self.seen.add(problem)
                runner.logger.warning(f"cannot use the image {problem}: training on the next one in its place")

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the images that this process knows of."""
        checkpoint["message_hub"]["runtime_info"][_SEEN] = sorted(self.seen)

    def before_stop(self, runner: Runner) -> None:
        """Give the number so far, before the state is saved."""
        self.after_train(runner)

    def after_train(self, runner: Runner) -> None:
        """Give the number of unreadable images of all processes, and the names of those that others met."""
        of_all: list[set[str]] = all_gather_object(self.seen)
        seen = set().union(*of_all)
        if runner.rank == 0:
            for problem in sorted(seen - self.seen):
                runner.logger.warning(f"another process could not use the image {problem}")
        if seen:
            runner.logger.warning(f"{len(seen)} training images could not be used")
        self.seen = seen
