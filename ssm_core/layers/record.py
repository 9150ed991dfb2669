"""Records what the scans of a model chose, for pictures and for analysis."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from .ssm import SelectiveSSM


def _detached(chosen: NamedTuple) -> NamedTuple:
    return chosen._make(x.detach() if isinstance(x, Tensor) else x for x in chosen)


@contextmanager
def record_scans(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Record what each scan chose in the model's last forward pass within the context.

    The model can be a whole classifier or detector that contains a backbone, in training or evaluation mode. The model
    records nothing outside the context. A compiled model records only if it is compiled within the context.

    Args:
        model: any module that contains scan modules.

    Yields:
        A dictionary that the forward pass fills. A key is the name of a scan module, and its value is the named tuple
        that the scan chose. The keys are in the order of execution. Scans that choose nothing have no entry.
    """
    record: dict[str, Any] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], tuple[Tensor, Any]], None]:
        def store(module: nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor, Any]) -> None:
            if output[1] is not None:
                record[name] = _detached(output[1])

        return store

    scans = [(name, module) for name, module in model.named_modules() if isinstance(module, SelectiveSSM)]
    handles = [module.register_forward_hook(hook(name)) for name, module in scans]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()
