"""Reads the folders in which others publish models: JSON files and weights, which anybody can have written.

Nothing in them runs. :mod:`ssm_core.weights` reads their weights.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ssm_core.errors import CheckpointError
from ssm_core.weights import read_file, state_dict_of

CONFIG = "config.json"
# Files with weights, the first that is there is read, and the ends of the names of lists of several such files.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"
# What a copy of such a folder needs of it.
PATTERNS = (CONFIG, "model*.safetensors", "pytorch_model*.bin", *(f"{name}{_INDEX}" for name in WEIGHTS))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        CheckpointError: the file is missing, or is none.
    """
    if not path.is_file():  # a link to a device would never end
        raise CheckpointError(f"there is no {path.name} in {path.parent}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"cannot read {path}: it holds a {type(content).__name__}, not an object")
    return content


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a model's folder, from one file or from several.

    Raises:
        CheckpointError: there are none, or a file is damaged, is no such file, or is outside the folder.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return _read(folder / name)
        if (folder / f"{name}{_INDEX}").is_file():
            return _read_several(folder / f"{name}{_INDEX}")
    raise CheckpointError(f"there are no weights in {folder}: it has neither {' nor '.join(WEIGHTS)}")


def _read_several(index: Path) -> dict[str, Tensor]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise CheckpointError(f"cannot read {index}: it has no weight_map")
    state: dict[str, Tensor] = {}
    for name in sorted(set(listed.values())):
        if "/" in name or "\\" in name or not name.endswith((".safetensors", ".bin")):
            raise CheckpointError(f"{index} names {name!r}, which is no file with weights in its folder")
        state |= _read(index.parent / name)
    return state


def _read(path: Path) -> dict[str, Tensor]:
    return state_dict_of(read_file(path), path)[0]
