"""Reads and writes safetensors files in the form of a checkpoint: weights, and what is said about them.

The format holds named tensors and texts, and nothing in it can run. One of the texts is ``meta`` in JSON here.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssm_core.pickles import MalformedFileError

SUFFIX = ".safetensors"
_LARGEST_HEADER = 100_000_000  # bytes, the library's own limit
_META = "meta"


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as safetensors files do: with the length of its header, and the header's first brace."""
    with open(path, "rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return len(start) == 9 and start[8:] == b"{" and length <= min(_LARGEST_HEADER, os.path.getsize(path) - 8)


def read_safetensors(path: str | Path, device: torch.device | str = "cpu", tensors: bool = True) -> dict[str, Any]:
    """Read a file.

    Args:
        path: the file.
        device: the device for its tensors.
        tensors: whether to read its tensors. None stands for each of them otherwise.

    Returns:
        ``state_dict``, the tensors by name, and ``meta``, which is empty unless the file has it.

    Raises:
        MalformedFileError: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            # A tensor of the library may be the file itself in memory, which changes if somebody writes to the file.
            names = file.keys()
            state = {name: file.get_tensor(name).to(device, copy=True) if tensors else None for name in names}
            text = (file.metadata() or {}).get(_META)
    except SafetensorError as error:
        raise MalformedFileError(" ".join(str(error).split())) from error
    return {"state_dict": state, "meta": _parsed(text)}


def write_safetensors(path: str | Path, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a file that :func:`read_safetensors` reads.

    Args:
        path: the file.
        state: the tensors by name. Those that share memory are written one by one.
        meta: what JSON can hold.

    Raises:
        OSError: it cannot be written.
    """
    apart = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    try:
        # transformers asks for the entry format. The library's save_file would let the owner alone read the file.
        content = save(apart, {"format": "pt", _META: json.dumps(meta, allow_nan=False)})
    except SafetensorError as error:
        raise OSError(" ".join(str(error).split())) from error
    Path(path).write_bytes(content)


def _parsed(text: str | None) -> dict[str, Any]:
    """The meta in a text. Other programs may mean something else by the name, and such a text is no meta."""
    try:
        meta = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}
