"""mmengine's hooks that write what an iteration reports, for loops that read it late (:class:`.LateReports`)."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import IterTimerHook, RuntimeInfoHook
from mmengine.runner import LogProcessor, Runner

from ssm_train.runtime.batches import Batches

# Entries of a history that are kept. mmengine copies the whole history for every new one, which would take milliseconds
# an iteration after some hundred thousand.
_LONGEST = 10_000


class IterationInfoHook(RuntimeInfoHook):
    """mmengine's RuntimeInfoHook, which writes the learning rate of an iteration together with its losses."""

    runs_late = True

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Write the number of the iteration, which networks may read."""
        runner.message_hub.update_info("iter", runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write the rate and the losses. The schedules move on after this hook."""
        for name, rate in runner.optim_wrapper.get_lr().items():
            runner.message_hub.update_scalar(f"train/{name}", rate[0])
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        for key, history in runner.message_hub.log_scalars.items():
            if key.startswith("train/"):
                history.max_length = _LONGEST


class IterationTimerHook(IterTimerHook):
    """mmengine's IterTimerHook, with the time that the data loader was waited for."""

    runs_late = True

    def __init__(self) -> None:
        super().__init__()
        self._waited: deque[float] = deque(maxlen=2)  # of the iterations whose hooks have not run

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Take the time of this batch."""
        batches = getattr(runner.train_loop, "batches", None)
        if isinstance(batches, Batches):
            self._waited.append(batches.waited)
        else:
            super().before_train_iter(runner, batch_idx, data_batch)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write the times of the iteration."""
        if self._waited:
            runner.message_hub.update_scalar("train/data_time", self._waited.popleft())
        super().after_train_iter(runner, batch_idx, data_batch, outputs)


class IterationLogProcessor(LogProcessor):
    """mmengine's LogProcessor, which does not send the peak memory to a GPU and back."""

    def _get_max_memory(self, runner: Runner) -> int:
        """The largest memory of tensors since the last line, in MiB."""
        peak = torch.cuda.max_memory_allocated() >> 20
        torch.cuda.reset_peak_memory_stats()
        return peak


def with_our_hooks(hooks: Mapping[str, Any]) -> dict[str, Any]:
    """The default hooks of a config, with ours where it has or means those of mmengine.

    Args:
        hooks: hooks or their configs by name; None for one that is left out.
    """
    given = dict(hooks)
    for name, (theirs, ours) in _OURS.items():
        if given.get(name, {"type": theirs}) in ({"type": theirs}, {"type": f"mmengine.{theirs}"}):
            given[name] = ours()
    return given


def our_log_processor(settings: LogProcessor | Mapping[str, Any]) -> LogProcessor | Mapping[str, Any]:
    """Our log processor, if the settings have or mean that of mmengine; otherwise the settings."""
    if isinstance(settings, Mapping) and settings.get("type", "LogProcessor") == "LogProcessor":
        return IterationLogProcessor(**{key: value for key, value in settings.items() if key != "type"})
    return settings


# By their names among mmengine's default hooks.
_OURS: dict[str, tuple[str, type[IterationInfoHook] | type[IterationTimerHook]]] = {
    "runtime_info": ("RuntimeInfoHook", IterationInfoHook),
    "timer": ("IterTimerHook", IterationTimerHook),
}
