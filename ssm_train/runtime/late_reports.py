"""What an iteration reports, read on the host while the device computes the next one.

An iteration that reads its loss waits until the device has computed it, and the device then waits for the next kernels.
Here the values of an iteration go to pinned memory behind its kernels. They are read, and the hooks run that come after
the iteration, when the gradients of the next iteration are queued and its update is not. The weights, the state of the
optimizer and the schedules are still those of the iteration that ended, and so every hook finds what it would have
found at once.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.hooks import CheckpointHook, EMAHook, EmptyCacheHook, Hook, LoggerHook, ParamSchedulerHook
from mmengine.runner import Runner
from torch import Tensor

from ssm_train.runtime.optimizers import Checks, GuardedOptimWrapper
from ssm_train.runtime.tensor_slots import TensorSlots

# Hooks of mmengine that neither change the network nor read what the next iteration has changed.
_MMENGINES = (CheckpointHook, EMAHook, EmptyCacheHook, LoggerHook, ParamSchedulerHook)
_STAGES = (("before_train_iter", "_before_iter"), ("after_train_iter", "_after_iter"))
_SHORT = (torch.float32, torch.bfloat16, torch.float16)  # float32 has all their values


class HostCopy:
    """Scalars of a device on their way to the host.

    Args:
        scalars: tensors of one element on one device.
    """

    def __init__(self, scalars: Sequence[Tensor]):
        if not scalars:
            self._host, self._event = torch.empty(0), None
            return
        dtype = torch.float32 if all(scalar.dtype in _SHORT for scalar in scalars) else torch.float64
        found = torch.stack([scalar.detach().reshape(()).to(dtype) for scalar in scalars])
        self._host, self._event = found, None
        if found.device.type == "cuda":
            self._host = torch.empty_like(found, device="cpu", pin_memory=True).copy_(found, non_blocking=True)
            # A thread that waits for a blocking event sleeps, and leaves its core to the loaders.
            self._event = torch.cuda.Event(blocking=True)
            self._event.record()

    def read(self) -> list[float]:
        """Wait for the values."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.tolist()


@dataclass(frozen=True)
class _Iteration:
    """An iteration whose kernels are queued, and whose hooks have not run."""

    iteration: int  # number in the run, from 0
    place: int  # number of the batch in its epoch, from 0
    batch: Any
    outputs: dict[str, Any]
    names: list[str]  # of the outputs that are copied
    checks: Checks | None  # None where gradients are only added up
    copy: HostCopy


class LateReports:
    """Runs the hooks that come after an iteration: at once, or when the gradients of the next iteration are queued.

    They run late where the device computes beside the host, the optimizer is a fused one, which can leave out an update
    that has no finite gradients, and no hook changes the network or reads it in ways that are not known. A hook says
    that it may run late by the class attribute ``runs_late = True``.

    Args:
        runner: the Runner.

    Attributes:
        beside: whether to expect that the device computes beside the host; None to see it from the model.
        late: whether hooks run late.
        waited: seconds that this process has waited for the device.
        queued: seconds that it has spent in training steps, without the hooks and without waiting.
        ended: when the loop went on from the last iteration, by ``time.perf_counter``.
    """

    def __init__(self, runner: Runner):
        self.runner = runner
        self.beside: bool | None = None
        self.late = False
        self.waited = self.queued = self.ended = 0.0
        self._pending: _Iteration | None = None
        self._buffers = TensorSlots([])
        self._kept: list[Tensor] = []
        self._in_hooks = 0.0

    def start(self) -> None:
        """Find whether hooks can run late. The loops call this when all hooks are there."""
        wrapper = self.runner.optim_wrapper
        self.late = False
        if not isinstance(wrapper, GuardedOptimWrapper):
            return
        beside = wrapper.device_type == "cuda" if self.beside is None else self.beside
        if beside and wrapper.is_fused:
            others = hooks_at_once(self.runner.hooks)
            if others:
                self.runner.logger.info(
                    f"every iteration waits for the device, because {', '.join(others)} may change the network: a hook "
                    "that does not can say runs_late = True"
                )
            self.late = not others
        wrapper.late, wrapper.before_step = self.late, self.settle if self.late else None
        if self.late:
            self._buffers = TensorSlots.buffers_of(self.runner.bare_model)
            self._kept = [buffer.clone() for buffer in self._buffers.tensors()]

    @contextmanager
    def step(self) -> Iterator[None]:
        """Context of a training step. Hooks of the iteration before run within it, if they are late."""
        begin, waited, hooks = time.perf_counter(), self.waited, self._in_hooks
        yield
        self.settle()  # where gradients are only added up, the optimizer did not ask for it
        self.queued += time.perf_counter() - begin - (self.waited - waited) - (self._in_hooks - hooks)

    def add(self, place: int, batch: Any, outputs: dict[str, Any]) -> None:
        """Run the hooks after an iteration, or begin to copy what they report.

        Args:
            place: number of the batch in its epoch, from 0.
            batch: the batch.
            outputs: what the training step returned.
        """
        if self.late:
            self._copy(place, batch, outputs)
        else:
            self.runner.call_hook("after_train_iter", batch_idx=place, data_batch=batch, outputs=outputs)
        self.ended = time.perf_counter()

    def _copy(self, place: int, batch: Any, outputs: dict[str, Any]) -> None:
        wrapper = self.runner.optim_wrapper
        checks, wrapper.checks = wrapper.checks, None
        device = wrapper.device_type
        names = [name for name, value in outputs.items() if isinstance(value, Tensor) and value.device.type == device]
        copy = HostCopy([*(outputs[name] for name in names), *(checks.scalars() if checks else ())])
        if self._kept:
            torch._foreach_copy_(self._kept, self._buffers.tensors())
        self._pending = _Iteration(self.runner.iter, place, batch, outputs, names, checks, copy)

    def settle(self, go_on: bool = True) -> None:
        """Run the hooks of the iteration whose values are on their way, if there is one.

        Args:
            go_on: whether the run goes on with the forward pass that has begun since.

        Raises:
            NonFiniteError: the loss or the gradient norm is not finite. That iteration has changed no weight.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        with self._as_of(pending, go_on):
            begin = time.perf_counter()
            values = pending.copy.read()
            now = time.perf_counter()
            self.waited += now - begin
            count = len(pending.names)
            if pending.checks is not None:
                self.runner.optim_wrapper.judge(pending.checks, values[count:])
            read = dict(zip(pending.names, torch.tensor(values[:count], dtype=torch.float64).unbind(), strict=True))
            outputs = {name: read.get(name, value) for name, value in pending.outputs.items()}
            self.runner.call_hook(
                "after_train_iter", batch_idx=pending.place, data_batch=pending.batch, outputs=outputs
            )
            self._in_hooks += time.perf_counter() - now

    @contextmanager
    def settled_on_error(self) -> Iterator[None]:
        """Context of a training. After an error the hooks of the iteration before it run first, as they would have."""
        try:
            yield
        except Exception:
            self.settle(go_on=False)
            raise

    @contextmanager
    def _as_of(self, pending: _Iteration, go_on: bool) -> Iterator[None]:
        """Let the run look as it did after an iteration. It stays so if a hook ends the run."""
        loop = self.runner.train_loop
        before, loop._iter = loop._iter, pending.iteration
        buffers = self._buffers.tensors()
        later = [buffer.clone() for buffer in buffers]
        if buffers:
            torch._foreach_copy_(buffers, self._kept)
        yield
        loop._iter = before
        if buffers and go_on:
            torch._foreach_copy_(buffers, later)


def hooks_at_once(hooks: Sequence[Hook]) -> list[str]:
    """The names of the hooks that have to run right after an iteration, as far as one can know.

    Args:
        hooks: the hooks of a run.
    """
    return [
        type(hook).__name__
        for hook in hooks
        if not all(_may_be_late(type(hook), stage, general) for stage, general in _STAGES)
    ]


def _may_be_late(kind: type, stage: str, general: str) -> bool:
    """Whether a hook does nothing in a stage, or may do late what it does.

    The class that defines the stage says so, or one that inherits it. A class that defines it anew speaks for itself.
    """
    for name in (stage, general):
        owner = next(parent for parent in kind.__mro__ if name in vars(parent))
        if owner is Hook:
            continue
        heirs = kind.__mro__[: kind.__mro__.index(owner) + 1]
        said: list[bool] = [vars(parent)["runs_late"] for parent in heirs if "runs_late" in vars(parent)]
        return said[0] if said else owner in _MMENGINES
    return True
