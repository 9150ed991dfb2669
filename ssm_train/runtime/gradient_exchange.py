"""What processes send each other of their gradients."""

from abc import abstractmethod

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from ssm_core.errors import ConfigError
from ssm_train.registry import HOOKS


class ExchangeHook(Hook):
    """A way to exchange gradients, in place of the sum in the precision of the weights."""

    def before_train(self, runner: Runner) -> None:
        """Register it with the wrapper for data parallelism. A run of one process exchanges nothing.

        Raises:
            ConfigError: the wrapper is none of torch's ``DistributedDataParallel``, or there is another such hook.
        """
        name = type(self).__name__
        if not runner.distributed:
            runner.logger.warning(f"{name} has no effect: one process exchanges no gradients")
            return
        if not isinstance(runner.model, DistributedDataParallel):
            raise ConfigError(
                f"{name} is for models in torch's DistributedDataParallel, not {type(runner.model).__name__}: "
                "remove it, or what the config says in model_wrapper_cfg or sharding"
            )
        others = [type(hook).__name__ for hook in runner.hooks if isinstance(hook, ExchangeHook) and hook is not self]
        if others:
            raise ConfigError(f"gradients can be exchanged in one way only: remove {name} or {others[0]}")
        self.register(runner)

    @abstractmethod
    def register(self, runner: Runner) -> None:
        """Register it with ``runner.model``, a ``DistributedDataParallel``."""


@HOOKS.register_module()
class HalfGradientsHook(ExchangeHook):
    """Sends gradients in bfloat16, which is half of the bytes, for machines with a slow network between them.

    Each process divides its gradients by the number of processes and rounds them to 8 bits of precision. Their sum is
    taken in bfloat16, and goes on in the precision of the weights. Nothing is kept from one iteration to the next, so
    that resuming is as exact as without. Between GPUs of one machine the exchange hides behind the backward pass in
    any precision, and this hook is of no use.
    """

    def register(self, runner: Runner) -> None:
        """Let torch compress what it sends."""
        runner.model.register_comm_hook(None, bf16_compress_hook)
