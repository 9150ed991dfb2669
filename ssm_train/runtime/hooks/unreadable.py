"""Names and counts the images that training had to replace."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ssm_train.data.collate import problems_of
from ssm_train.data.guarded import MARK, data_samples_of
from ssm_train.registry import HOOKS


@HOOKS.register_module()
class UnreadableImagesHook(Hook):
    """Warns once about every unreadable training image and gives their number at the end."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Look for new ones in the batch."""
        samples = data_batch["data_samples"]
        problems = (
            problems_of(samples).values()
            if isinstance(samples, dict)
            else [sample.metainfo.get(MARK) for sample in data_samples_of(data_batch)]
        )
        for problem in problems:
            if problem and problem not in self.seen:
                self.seen.add(problem)
                runner.logger.warning(f"cannot use the image {problem}: training on the next one in its place")

    def after_train(self, runner: Runner) -> None:
        """Give their number."""
        if self.seen:
            runner.logger.warning(f"{len(self.seen)} training images could not be used")
