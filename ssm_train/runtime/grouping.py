"""Which parameters an optimizer has in which group, so that a run can be resumed with other groups and settings."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.optim import OptimWrapper
from torch import nn

from ssm_core.errors import CheckpointError
from ssm_train.runtime.checkpoints import plain

KEY = "parameter_groups"  # where a state has the grouping
# How an optimizer computes, which means nothing for the values.
_IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")
_SHOWN = 3  # names of parameters in a message


class Grouping(NamedTuple):
    """The optimizer of a run and its parameters.

    Attributes:
        optimizer: name of its class.
        names: names of the parameters of each group.
    """

    optimizer: str
    names: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, wrapper: Any, model: nn.Module) -> "Grouping | None":
        """The grouping of a run; None if it has several optimizers.

        Args:
            wrapper: the optimizer's wrapper.
            model: the model without wrappers.
        """
        if not isinstance(wrapper, OptimWrapper):
            return None
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = wrapper.optimizer.param_groups
        return cls(
            type(wrapper.optimizer).__name__,
            tuple(tuple(names.get(id(parameter), "") for parameter in group["params"]) for group in groups),
        )

    @classmethod
    def read(cls, saved: Any) -> "Grouping | None":
        """The inverse of :meth:`plain`; None for None, which states of earlier editions have.

        Raises:
            ValueError: it is something else.
        """
        if saved is None:
            return None
        names = tuple(tuple(group) for group in saved["names"])
        if not all(isinstance(name, str) for name in (saved["optimizer"], *(n for group in names for n in group))):
            raise ValueError("its groups of parameters have no names")
        return cls(saved["optimizer"], names)

    def plain(self) -> dict[str, Any]:
        """The grouping as plain data."""
        return {"optimizer": self.optimizer, "names": [list(group) for group in self.names]}

    def change(self, before: "Grouping") -> str:
        """What is different from another grouping, in words; empty if nothing is."""
        now, then = ({name for group in grouping.names for name in group} for grouping in (self, before))
        words = [
            f"{_some(sorted(names))} {'is' if len(names) == 1 else 'are'} {what}"
            for names, what in ((now - then, "trained now"), (then - now, "no longer trained"))
            if names
        ]
        return " and ".join(words) or ("" if self.names == before.names else "parameters are in other groups")


def regrouped(state: Mapping[str, Any], saved: Grouping, own: Mapping[str, Any], now: Grouping) -> dict[str, Any]:
    """The state of an optimizer, arranged for other groups. Parameters that were not trained begin without a state.

    Args:
        state: from a file.
        saved: its grouping.
        own: state of the optimizer of the run that goes on.
        now: its grouping.

    Raises:
        ValueError: the state does not have the groups of ``saved``.
    """
    place, settings = {}, {}
    for names, group in zip(saved.names, state["param_groups"], strict=True):
        for name, number in zip(names, group["params"], strict=True):
            place[name], settings[name] = number, group
    entries, groups = {}, []
    for names, group in zip(now.names, own["param_groups"], strict=True):
        known = [name for name in names if name in place]
        groups.append({**group, **(settings[known[0]] if known else {}), "params": group["params"]})
        for name, number in zip(names, group["params"], strict=True):
            if name in place and place[name] in state["state"]:
                entries[number] = state["state"][place[name]]
    arranged = {**state, "state": entries, "param_groups": groups}
    if own.get("base_param_settings") is None:
        arranged.pop("base_param_settings", None)
    else:
        arranged.setdefault("base_param_settings", own["base_param_settings"])
    return arranged


def arrange(content: dict[str, Any], path: Any, own: Mapping[str, Any], now: Grouping) -> None:
    """Arrange the optimizer's state of a checkpoint for the groups of the run that goes on.

    What is different then stays in the checkpoint under :data:`KEY`, in words.

    Args:
        content: the content of the file.
        path: the file, for the message.
        own: state of the optimizer of the run that goes on.
        now: its grouping.

    Raises:
        CheckpointError: the run had another optimizer, or the file does not say which parameters were in which group.
        ValueError: the state is damaged.
    """
    saved = Grouping.read(content.get(KEY))
    if saved is None:
        theirs, mine = (
            [len(group["params"]) for group in state["param_groups"]] for state in (content["optimizer"], own)
        )
        if theirs != mine:
            raise CheckpointError(
                f"{path} cannot be resumed: its optimizer has groups of {_listed(theirs)} parameters, and that of this "
                f"config has groups of {_listed(mine)}; resume with the same frozen_stages, paramwise_cfg and "
                "weight_decay, or start a new run from its weights with load_from"
            )
        content[KEY] = ""
        return
    if saved.optimizer != now.optimizer:
        raise CheckpointError(
            f"{path} cannot be resumed: optim_wrapper.optimizer.type was {saved.optimizer}, now {now.optimizer}, which "
            "cannot use its state; resume with the same, or start a new run from its weights with load_from"
        )
    content[KEY] = now.change(saved)
    if content[KEY]:
        content["optimizer"] = regrouped(content["optimizer"], saved, own, now)


def changed_settings(
    now: Sequence[Mapping[str, Any]], before: Sequence[dict[str, Any]], scheduled: set[str]
) -> dict[str, str]:
    """The settings of an optimizer that differ, in words. mmengine would take those of the checkpoint without a word.

    How the optimizer computes follows the config from here on.

    Args:
        now: the groups of the run that goes on.
        before: the groups of the checkpoint.
        scheduled: names of the settings that schedules change.

    Returns:
        Name of each setting to the words.
    """
    found: dict[str, str] = {}
    ignored = {"params", *_IMPLEMENTATION, *scheduled, *(f"initial_{name}" for name in scheduled)}
    if "momentum" in scheduled:
        ignored.add("betas")  # mmengine's schedules of the momentum change the first of them
    for mine, theirs in zip(now, before, strict=True):
        theirs.update({key: mine[key] for key in _IMPLEMENTATION if key in mine and key in theirs})
        for key in mine.keys() & theirs.keys() - ignored:
            old, new = (list(v) if isinstance(v, tuple) else v for v in (plain(theirs[key]), plain(mine[key])))
            if old != new and key not in found:
                found[key] = f"optim_wrapper.optimizer.{key} was {_number(old)}, now {_number(new)}"
    return dict(sorted(found.items()))


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _listed(sizes: Sequence[int]) -> str:
    return " and ".join(map(str, sizes))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more parameters" if len(names) > _SHOWN else shown
