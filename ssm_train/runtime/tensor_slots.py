"""The parameters and buffers of a module, listed without a walk through the module."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn


class TensorSlots:
    """Where the tensors of a module are kept.

    ``module.parameters()`` walks through all submodules, which takes a millisecond of Python for a network of some
    hundred tensors. The places stay the same for as long as the module has the same parts, and a tensor that is
    replaced is found at its place.

    Args:
        slots: dictionaries of tensors and the keys in them.
    """

    def __init__(self, slots: Sequence[tuple[dict[str, Any], str]]):
        self._slots = slots

    @classmethod
    def parameters_of(cls, module: nn.Module) -> "TensorSlots":
        """The places of the tensors of ``module.parameters()``, in their order."""
        return cls(_places(part._parameters for part in module.modules()))

    @classmethod
    def buffers_of(cls, module: nn.Module) -> "TensorSlots":
        """The places of the tensors of ``module.buffers()``, in their order."""
        return cls(_places(part._buffers for part in module.modules()))

    def tensors(self) -> list[Tensor]:
        """The tensors that are there now."""
        return [place[key] for place, key in self._slots]


def _places(dictionaries: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    seen: set[int] = set()  # a tensor that several modules share counts once
    found = []
    for place in dictionaries:
        for key, tensor in place.items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                found.append((place, key))
    return found
