"""Updating parameters: mixed precision, gradient clipping, and a stop at NaN."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from ssm_core.errors import ConfigError, NonFiniteError
from ssm_train.registry import OPTIM_WRAPPERS
from ssm_train.runtime.gradient_norms import group_of, norms_of, summed


class ClipGrad(TypedDict, total=False):
    """How gradients are clipped: their largest norm, and which norm it is."""

    max_norm: float
    norm_type: float


@dataclass(frozen=True)
class Checks:
    """What decided whether an update was made, on the device.

    Attributes:
        loss: the loss, added up over the iterations of the update.
        norm: the norm of all gradients.
        norms: the norm of every gradient [P].
        parameters: the parameters [P] of these gradients.
        scale: the loss scale and its growth tracker before the update; empty without a loss scale.
    """

    loss: Tensor
    norm: Tensor
    norms: Tensor
    parameters: list[nn.Parameter]
    scale: list[Tensor]

    def scalars(self) -> list[Tensor]:
        """What the host has to know."""
        return [self.loss, self.norm, *self.scale]


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """Updates parameters only if the loss and the gradients are finite, in full or mixed precision, on any device.

    The loss and the gradient norm are checked together after the backward pass. A fused optimizer skips the update by a
    flag on the device, and the host reads the values later: within :meth:`step`, or while the device computes the next
    iteration (:class:`.LateReports`). Under data parallelism the gradients are averaged by then, so that all processes
    stop together.

    Args:
        optimizer: the optimizer of the parameters.
        accumulative_counts: number of iterations whose gradients are added up for one update.
        clip_grad: arguments of ``torch.nn.utils.clip_grad_norm_``: ``max_norm`` and, if it is not 2, ``norm_type``.
        dtype: precision of matrix products and convolutions in the forward pass. ``float16`` scales the loss.

    Raises:
        ConfigError: ``dtype`` has another value, or ``clip_grad`` has no ``max_norm``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        accumulative_counts: int = 1,
        clip_grad: ClipGrad | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ):
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"optim_wrapper.dtype is float32, bfloat16 or float16, not {dtype!r}")
        if clip_grad is not None and "max_norm" not in clip_grad:
            raise ConfigError("optim_wrapper.clip_grad needs max_norm, such as clip_grad=dict(max_norm=5.0)")
        super().__init__(optimizer, accumulative_counts, clip_grad)
        if len({group["lr"] for group in optimizer.param_groups}) == 1:
            # Otherwise mmengine logs a base learning rate that its automatic scaling does not change.
            self.base_param_settings = None
        self.device_type = optimizer.param_groups[0]["params"][0].device.type
        self.dtype = getattr(torch, dtype)
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=dtype == "float16")
        self._loss: Tensor | float = 0.0
        # Called when the gradients of an update are queued.
        self.before_step: Callable[[], None] | None = None
        # Called before anything of the state of the run changes.
        self.before_update: Callable[[], None] | None = None
        # Whether step() returns before the values are known, and leaves them in `checks` for judge().
        self.late = False
        self.checks: Checks | None = None
        # Whose gradients were not finite, if the host learnt it when the gradients were gone.
        self.blamed: list[nn.Parameter] | None = None
        self._weight, self._is_last = 1.0, True

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Context of the forward pass: autocast, and no exchange of gradients in iterations that only accumulate."""
        enabled = self.dtype != torch.float32
        with super().optim_context(model), torch.autocast(self.device_type, self.dtype, enabled=enabled):
            yield

    @contextmanager
    def piece(self, weight: float, is_last: bool) -> Iterator[None]:
        """Context of a training step that is one of several in an iteration.

        Args:
            weight: factor of the loss.
            is_last: whether the iteration ends with this step. Only then gradients are exchanged and counted.
        """
        self._weight, self._is_last = weight, is_last
        try:
            yield
        finally:
            self._weight, self._is_last = 1.0, True

    def should_sync(self) -> bool:
        """Whether the gradients are exchanged after the next backward pass."""
        return self._is_last and super().should_sync()

    def should_update(self) -> bool:
        """Whether the parameters are updated after the last backward pass."""
        return self._is_last and super().should_update()

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The loss divided by the number of accumulated iterations, and weighted if it is of a piece."""
        return super().scale_loss(loss) * self._weight

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one iteration.

        Args:
            loss: scalar loss, divided by the number of accumulated iterations.
        """
        self._loss = self._loss + loss.detach().float()
        self.scaler.scale(loss).backward()
        self._inner_count += self._is_last

    @property
    def is_fused(self) -> bool:
        """Whether the optimizer can skip an update by a flag on the device."""
        return getattr(self.optimizer, "_step_supports_amp_scaling", False)

    def step(self) -> None:
        """Update the parameters.

        Raises:
            NonFiniteError: the loss or the gradient norm is not finite. The parameters are unchanged. If the values are
                read late, :meth:`judge` raises it.
        """
        if self.before_step is not None:
            self.before_step()
        if self.before_update is not None:
            self.before_update()
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        norm, norms = norms_of(gradients, (self.clip_grad_kwargs or {}).get("norm_type", 2.0))
        # Processes that share the gradients stop together, also where the loss of one alone is not finite.
        loss, self._loss = summed(self._loss, group_of(gradients)), 0.0
        values = torch.stack([loss, norm.float()])
        # A fused optimizer can skip the update by a flag on the device, and need not wait for the values on the host.
        at_once = self.is_fused and (self.late or not self.scaler.is_enabled())
        if at_once:
            self._step_if(values.isfinite().all(), parameters, norm)
        if self.late:
            self.checks = Checks(*values.unbind(), norms, parameters, self._scale())
            self.scaler.update()
            return
        self._judge(*values.tolist())
        if not at_once:
            self._clip(parameters, norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def judge(self, checks: Checks, values: list[float]) -> None:
        """Say whether a late update was made.

        Args:
            checks: what decided it.
            values: the values of :meth:`Checks.scalars`.

        Raises:
            NonFiniteError: the loss or the gradient norm is not finite. The parameters are unchanged.
        """
        loss, norm, *scale = values
        try:
            self._judge(loss, norm)
        except NonFiniteError:
            finite = checks.norms.isfinite().tolist()
            self.blamed = [p for p, is_finite in zip(checks.parameters, finite, strict=True) if not is_finite]
            if scale:  # the scaler took the bad gradients for those of a scale that is too large
                before = {"scale": scale[0], "_growth_tracker": int(scale[1])}
                self.scaler.load_state_dict({**self.scaler.state_dict(), **before})
            raise

    def _judge(self, loss: float, norm: float) -> None:
        if not _is_finite(loss):
            raise NonFiniteError(f"the loss is {loss}")
        # A loss scale that is too large gives infinite float16 gradients. The scaler then skips the update.
        if not _is_finite(norm) and not self.scaler.is_enabled():
            raise NonFiniteError(f"the gradient norm is {norm}")
        self.message_hub.update_scalar("train/grad_norm", norm)

    def _scale(self) -> list[Tensor]:
        """Copies of the loss scale and its growth tracker. What the scaler has in public waits for the device."""
        if not self.scaler.is_enabled():
            return []
        return [self.scaler._scale.clone(), self.scaler._growth_tracker.clone()]

    def _step_if(
        self,
        finite: Tensor,  # scalar, on the device
        parameters: list[nn.Parameter],
        norm: Tensor,  # scalar
    ) -> None:
        """Queue the update. The optimizer skips it if ``finite`` is false, as it does for a gradient scaler.

        The gradients then stay unchanged, so that an error can name the bad one.
        """
        self._clip(parameters, torch.where(finite, norm, 0.0))
        self.optimizer.grad_scale, self.optimizer.found_inf = None, finite.logical_not().float()
        try:
            self.optimizer.step()
        finally:
            del self.optimizer.grad_scale, self.optimizer.found_inf

    def _clip(self, parameters: list[nn.Parameter], norm: Tensor) -> None:
        if self.clip_grad_kwargs:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_grad_kwargs["max_norm"], norm)

    def state_dict(self) -> dict:
        """The state of the optimizer and the loss scale."""
        return {**super().state_dict(), "loss_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Load the result of :meth:`state_dict`. A state from another precision gets a new loss scale."""
        state_dict = dict(state_dict)
        scale = state_dict.pop("loss_scaler", {})
        if scale and self.scaler.is_enabled():
            self.scaler.load_state_dict(scale)
        super().load_state_dict(state_dict)


def _is_finite(value: float) -> bool:
    return value - value == 0
