"""Results that a compiled training step computes again in its backward pass, where torch.compile would keep them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level  # torch.func has no public function for this
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Call a function. While ``torch.compile`` traces it for training, mark it to be called again in the backward pass.

    The mark makes no second call in the graph of the forward pass, and nothing else changes: without ``torch.compile``
    this is the call alone.

    Args:
        function: a function that is cheap beside the memory of its result and that draws no random numbers.
        arguments: of the function.
    """
    if traces_training() and not _is_parallel():
        result: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
        return result
    return function(*arguments)


def traces_training() -> bool:
    """Whether ``torch.compile`` is tracing a training step.

    Exported graphs are for forward passes, and torch.func asks for other derivatives than those of a training step.
    """
    return torch.compiler.is_dynamo_compiling() and torch.is_grad_enabled() and _is_of_training()


@torch.compiler.assume_constant_result  # a graph is traced again for other transforms
def _is_of_training() -> bool:
    return not torch.compiler.is_exporting() and maybe_current_level() is None


@torch.compiler.assume_constant_result
def _is_parallel() -> bool:
    """Whether the graph may be cut for DistributedDataParallel: some versions of torch refuse checkpoints in those."""
    return torch.distributed.is_available() and nn.parallel.DistributedDataParallel._active_ddp_module is not None
