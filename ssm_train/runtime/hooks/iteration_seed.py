"""Makes what a training iteration draws independent of everything drawn before it."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ssm_train.registry import HOOKS
from ssm_train.runtime.reproducibility import seed_iteration


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seeds every iteration with (seed, iteration, rank): drop path, Gumbel noise, mixup.

    A resumed run therefore continues with the numbers that the uninterrupted one would have drawn.
    """

    priority = "VERY_HIGH"

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed all generators."""
        seed_iteration(runner.seed, runner.iter, runner.rank)
