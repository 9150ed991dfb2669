"""Checks what a checkpoint says about a run before the run is resumed from it. Any program can have written the file.

The state of the optimizer and of the schedules must be of the kinds, the shapes and the names that the run itself has.
What mmengine's message hub keeps must lead to no file outside the work folder: mmengine deletes the best checkpoint of
before when there is a better one.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor
from torch.optim import Optimizer

from ssm_core.weights import kind_of

_TRIAL = (2, 3, 4, 5, 6, 7)  # the shape of a parameter with which an optimizer is tried
# Without these no optimizer can go on. Other settings came with releases of torch, which complete old states.
_SETTINGS = {"params", "lr", "betas", "eps", "weight_decay", "momentum"}
_COUNTS = ("epoch_length", "last_epoch_validated", "last_iteration_validated")


def message_hub(state: Any, folder: Path) -> dict[str, Any]:
    """The inverse of :func:`.checkpoints.pack_message_hub`.

    Args:
        state: from a file.
        folder: the work folder, in which the files are that it names.

    Raises:
        ValueError: an entry is of another type than a run's.
    """
    _require(isinstance(state, Mapping), "its message_hub is no dictionary")
    parts = [state.get(name) for name in ("log_scalars", "runtime_info", "resumed_keys")]
    _require(all(isinstance(part, Mapping) for part in parts), "its message_hub lacks a part")
    histories, known, resumed = parts
    scalars = {}
    for key, history in histories.items():
        _require(isinstance(history, list | tuple) and len(history) == 2, f"its history of {key} is damaged")
        _require(all(isinstance(part, list | tuple) for part in history), f"its history of {key} is damaged")
        _require(all(_is_number(item) for part in history for item in part), f"its history of {key} is damaged")
        scalars[key] = HistoryBuffer(*history)
    return {
        "log_scalars": scalars,
        "runtime_info": {key: _information(str(key), value, folder) for key, value in known.items()},
        "resumed_keys": dict(resumed),
    }


def _information(key: str, value: Any, folder: Path) -> Any:
    if key.startswith("best_ckpt") or key == "last_ckpt":
        _require(value is None or isinstance(value, str), f"its {key} is no file")
        # Only the name is taken: the folder may have been moved, and the path may be anywhere.
        return str(folder / Path(value).name) if value and Path(value).suffix == ".pth" else None
    if key.startswith("best_score"):
        _require(_is_number(value) and not math.isnan(value), f"its {key} is no number")
    if key in _COUNTS:
        _require(type(value) is int, f"its {key} is no number")
    if key == "keep_ckpt_ids":
        _require(isinstance(value, list | tuple) and all(type(n) is int for n in value), f"its {key} are no numbers")
        return list(value)
    return value


def check_optimizer(state: Any, own: Mapping[str, Any], optimizer: Optimizer | None) -> None:
    """Check the state of an optimizer against that of the run.

    Args:
        state: from a file.
        own: what the wrapper of the run's optimizer saves.
        optimizer: the run's optimizer; None if there are several.

    Raises:
        ValueError: they are not alike.
    """
    _require(isinstance(state, Mapping), "the state of its optimizer is no dictionary")
    check_alike({k: v for k, v in own.items() if k != "state"}, state, "optimizer")
    groups = zip(own.get("param_groups", ()), state.get("param_groups", ()), strict=True)
    for number, (mine, theirs) in enumerate(groups):
        missing = _SETTINGS & (mine.keys() - theirs.keys())
        _require(not missing, f"optimizer.param_groups.{number} has no {', '.join(missing)}")
    bad = non_finite_place(state.get("state"), "optimizer.state")
    _require(bad is None, f"{bad} is not finite")
    if optimizer is None:
        return
    entries = state.get("state")
    _require(isinstance(entries, Mapping), "optimizer.state is no dictionary")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    usual = {dims: _usual_entry(optimizer, dims) for dims in {parameter.dim() for parameter in parameters}}
    for number, entry in entries.items():
        place = f"optimizer.state.{number}"
        _require(type(number) is int and 0 <= number < len(parameters), f"{place} is of no parameter")
        _require(isinstance(entry, Mapping), f"{place} is no dictionary")
        own_entry = usual[parameters[number].dim()]
        if own_entry is None or not entry:
            continue
        _require(entry.keys() == own_entry.keys(), f"{place} has {list(entry)}, not {list(own_entry)}")
        for name, value in entry.items():
            _check_entry(own_entry[name], value, parameters[number], f"{place}.{name}")


def _usual_entry(optimizer: Optimizer, dims: int) -> dict[str, Any] | None:
    """What an optimizer keeps of a parameter of so many dimensions after a step; None if it cannot be tried."""
    trial = copy.copy(optimizer)
    first = optimizer.param_groups[0]
    parameter = torch.nn.Parameter(torch.zeros(_TRIAL[:dims], device=first["params"][0].device))
    parameter.grad = torch.zeros_like(parameter)
    trial.state, trial.param_groups = defaultdict(dict), [{**first, "params": [parameter]}]
    try:
        type(trial).step(trial)  # schedules may have put a method of the run's optimizer into the copy
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        return None
    return dict(trial.state[parameter])


def _check_entry(usual: Any, value: Any, parameter: Tensor, place: str) -> None:
    if not isinstance(usual, Tensor) or not isinstance(value, Tensor):
        _require(isinstance(value, Tensor) == isinstance(usual, Tensor) or None in (usual, value), f"{place} is wrong")
        return
    _require(kind_of(value) == kind_of(usual), f"{place} has {kind_of(value)}")
    if usual.dim() == 0:
        _require(value.dim() == 0, f"{place} is {tuple(value.shape)} and not one number")
    elif usual.shape == _TRIAL[: parameter.dim()]:
        _require(value.shape == parameter.shape, f"{place} is {tuple(value.shape)}, not {tuple(parameter.shape)}")
    else:
        _require(value.numel() <= parameter.numel(), f"{place} is larger than its parameter")


def check_alike(own: Any, found: Any, place: str) -> None:
    """Check that a value from a file has the kind of the run's own value, and so on within dictionaries and lists.

    Args:
        own: the run's.
        found: from the file. A dictionary may lack entries, which older versions did not save.
        place: what it is, for the message.

    Raises:
        ValueError: it has not, or a number is NaN or infinite where the run's is not.
    """
    if isinstance(own, Mapping):
        _require(isinstance(found, Mapping), f"{place} is no dictionary")
        for key in own.keys() & found.keys():
            check_alike(own[key], found[key], f"{place}.{key}")
    elif isinstance(own, list | tuple):
        _require(isinstance(found, list | tuple), f"{place} is no list")
        _require(len(own) == len(found), f"{place} has {len(found)} entries, not {len(own)}")
        for number, (mine, theirs) in enumerate(zip(own, found, strict=True)):
            check_alike(mine, theirs, f"{place}.{number}")
    elif isinstance(own, Tensor) and isinstance(found, Tensor):
        _require(own.shape == found.shape and kind_of(own) == kind_of(found), f"{place} has another shape or kind")
        _require(bool(found.isfinite().all()), f"{place} is not finite")
    elif _is_number(own):
        _require(_is_number(found) and (math.isfinite(found) or not math.isfinite(own)), f"{place} is no finite number")
    elif own is not None and not (isinstance(own, bool) and found is None):
        _require(type(found) is type(own), f"{place} is a {type(found).__name__}, not a {type(own).__name__}")
    else:
        _require(found is None or isinstance(found, bool) or _is_number(found), f"{place} is a {type(found).__name__}")


def check_schedules(states: Any, schedules: Any) -> None:
    """Check the states of the schedules of parameters, which are alike where the run's own are.

    Args:
        states: from a file; a list, or a dictionary of lists.
        schedules: the run's, in the same form.

    Raises:
        ValueError: they are not alike.
    """
    if isinstance(schedules, Mapping):
        _require(isinstance(states, Mapping), "its param_schedulers are no dictionary")
        for name, part in schedules.items():
            check_schedules(states.get(name), part)
        return
    _require(isinstance(states, list | tuple), "its param_schedulers are no list")
    for number, (state, schedule) in enumerate(zip(states, schedules, strict=False)):
        own, place = schedule.state_dict(), f"param_schedulers.{number}"
        _require(isinstance(state, Mapping), f"{place} is no dictionary")
        # They become attributes.
        _require(state.keys() <= own.keys(), f"{place} has {sorted(map(str, state.keys() - own.keys()))}")
        check_alike(own, state, place)


def non_finite_place(value: Any, place: str) -> str | None:
    """Find a number of nested data that is NaN or infinite.

    Args:
        value: dictionaries, lists and tuples of tensors and numbers.
        place: its name, before those of its entries.

    Returns:
        The place of the first such number, or None.
    """
    if isinstance(value, Tensor):
        return place if value.is_floating_point() and not bool(value.isfinite().all()) else None
    if isinstance(value, float):
        return None if math.isfinite(value) else place
    if isinstance(value, Mapping):
        entries = list(value.items())
    else:
        entries = list(enumerate(value)) if isinstance(value, list | tuple) else []
    found = (non_finite_place(item, f"{place}.{key}") for key, item in entries)
    return next((bad for bad in found if bad is not None), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(condition: bool, words: str) -> None:
    if not condition:
        raise ValueError(words)
