"""Reading back what the scans of a model chose, for pictures and for analysis."""

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

    It works on a whole classifier or detector that contains a backbone, in training and in evaluation. Nothing is kept
    outside the context. A compiled model records only if it is compiled within the context.

    Args:
        model: any module that contains scan modules.

    Yields:
        The dictionary that a forward pass fills: name of the scan module, in the order of execution, to the named tuple
        of what it chose. Scans that choose nothing are absent.
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
