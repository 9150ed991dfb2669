"""Batches of a data loader, copied to the device beside its work."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor


class Batches(Iterator[Any]):
    """The batches of one pass over a data loader, with all their tensors on the device of the model.

    The host is an iteration ahead of a GPU when it takes a batch. The batch is therefore copied while the GPU computes
    the iteration before, on a stream of its own. It is not fetched earlier than it is asked for: a run that ends has
    fetched no batch that it did not use.

    Args:
        loader: the data loader. The copies run beside the host only from pinned memory (``pin_memory=True``).
        device: where to.

    Attributes:
        waited: seconds that the last batch was waited for.
    """

    def __init__(self, loader: Iterable[Any], device: torch.device | str):
        self.device = torch.device(device)
        self.waited = 0.0
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._batches = iter(loader)

    def __next__(self) -> Any:
        begin = time.perf_counter()
        batch = next(self._batches)
        self.waited = time.perf_counter() - begin
        return batch if self._copies is None else self._copied(batch)

    def _copied(self, batch: Any) -> Any:
        with torch.cuda.stream(self._copies):
            there = moved(batch, self.device)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._copies)
        for tensor in tensors_in(there):
            # The memory may be used again when the computing stream has come to its end.
            tensor.record_stream(computing)
        return there


def moved(value: Any, device: torch.device) -> Any:
    """Copy every tensor in a batch to a device, without waiting for the copies.

    Args:
        value: dictionaries, lists, tuples and mmengine's data elements of tensors and of anything else, which stays.
        device: where to.
    """
    if isinstance(value, Tensor | BaseDataElement):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(item, device) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(moved(item, device) for item in value)
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in a batch; see :func:`moved`."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, BaseDataElement):
        yield from tensors_in(value.values())
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
