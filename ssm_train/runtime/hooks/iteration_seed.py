"""A hook that makes the random numbers of a training iteration independent of all that were drawn before."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ssm_train.registry import HOOKS
from ssm_train.runtime.reproducibility import seed_iteration


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seeds every iteration with (seed, iteration, rank), for example for drop path, Gumbel noise and mixup.

    A resumed run therefore draws the numbers that it would have drawn without the interruption.
    """

    runs_late = True
    priority = "VERY_HIGH"

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed all generators."""
        seed_iteration(runner.seed, runner.iter, runner.rank)
