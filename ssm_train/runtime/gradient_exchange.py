"""What processes send each other of their gradients."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from ssm_core.errors import ConfigError
from ssm_train.registry import HOOKS


@HOOKS.register_module()
class HalfGradientsHook(Hook):
    """Sends gradients in bfloat16, which is half of the bytes, for machines with a slow network between them.

    Each process divides its gradients by the number of processes and rounds them to 8 bits of precision. Their sum is
    taken in bfloat16, and goes on in the precision of the weights. Nothing is kept from one iteration to the next, so
    that resuming is as exact as without. Between GPUs of one machine the exchange hides behind the backward pass in
    any precision, and this hook is of no use.
    """

    def before_train(self, runner: Runner) -> None:
        """Register it with the wrapper for data parallelism. A run of one process exchanges nothing.

        Raises:
            ConfigError: the wrapper is none of torch's ``DistributedDataParallel``.
        """
        if not runner.distributed:
            runner.logger.warning("HalfGradientsHook has no effect: one process exchanges no gradients")
            return
        if not isinstance(runner.model, DistributedDataParallel):
            raise ConfigError(
                "HalfGradientsHook is for models in torch's DistributedDataParallel, not "
                f"{type(runner.model).__name__}: remove it, or the model_wrapper_cfg"
            )
        runner.model.register_comm_hook(None, bf16_compress_hook)
