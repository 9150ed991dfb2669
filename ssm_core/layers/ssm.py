"""The base class of all scan modules. It holds the parameters of selective state space models."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_core.ops.checks import accumulate_dtype

from .recompute import recomputed

# The range of the initial step sizes softplus(dt_bias), as in Mamba.
STEP_MIN, STEP_MAX = 1e-3, 0.1

torch.fx.wrap("accumulate_dtype")  # a leaf of graphs, because it looks at a value


_Forward = TypeVar("_Forward", bound=Callable[..., Any])


def reads_apart(readers: int) -> Callable[[_Forward], _Forward]:
    """Mark the ``forward`` of a scan whose layers take ``readers`` maps instead of one; see :func:`apart`."""

    def mark(forward: _Forward) -> _Forward:
        forward.readers = readers  # type: ignore[attr-defined]  # any function takes attributes
        return forward

    return mark


def norms_and_gates(forward: _Forward) -> _Forward:
    """Mark the ``forward`` of a scan that takes the :class:`~ssm_core.layers.GatedNorm` after it as its third argument.

    The scan then returns the map after the norm and the gate.
    """
    forward.norms_and_gates = True  # type: ignore[attr-defined]  # any function takes attributes
    return forward


def apart(
    x: Tensor | tuple[Tensor, ...],  # [B, H, W, D]
    readers: int,
) -> tuple[Tensor, ...]:
    """Return the features that a scan was called with, once for each of its layers that reads them.

    A compiled training step calls a scan with the same map several times, so that the gradients of the readers need not
    be added up before the backward pass of the convolution that made it
    (:func:`~ssm_core.ops.depthwise_conv.depthwise_conv_for`).
    """
    return x if isinstance(x, tuple) else (x,) * readers


class SelectiveInputs(NamedTuple):
    """The inputs of a selective scan that depend on the tokens, listed in the order of the tokens."""

    delta: Tensor  # [B, K, L, D], step sizes before bias and softplus
    B: Tensor  # [B, K, L, N]
    C: Tensor  # [B, K, L, N]


class SelectiveSSM(nn.Module):
    """The base of the scan modules: K selective state space models that read the same input.

    A subclass implements ``forward(x, previous)``. ``x`` is the features ``[B, H, W, D]``, or the same features several
    times for a ``forward`` that is marked by :func:`reads_apart`. ``previous`` is what the
    scan of the previous block chose, or None in the first block of a stage. The method returns the result
    ``[B, H, W, D]`` and what this scan chose. A choice is a named tuple, which
    :func:`~ssm_core.layers.record_scans` can record. A scan that chooses nothing returns None.
    A ``forward`` that is marked by :func:`norms_and_gates` also takes what comes after the scan.

    Args:
        inner_dim: number D of channels.
        d_state: number N of states per channel.
        dt_rank: rank R of the projection that gives the step sizes.
        directions: number K of models.

    Raises:
        ValueError: there is no channel or no state.

    Attributes:
        multiple: zeros are appended to the weights until this number divides the rank of the steps and the width of the
            product with the tokens. Tensor cores read numbers by eight; libraries have slow kernels for other sizes.
    """

    multiple = 8

    # Parameters without weight decay. Decay would pull the dynamics of the state to zero. This list is needed because
    # the general rule exempts only parameters of one dimension, and these have more.
    NO_WEIGHT_DECAY = ("A_log", "D", "dt_bias")

    def __init__(self, inner_dim: int, d_state: int, dt_rank: int, directions: int) -> None:
        super().__init__()
        if inner_dim < 1 or d_state < 1:
            raise ValueError(
                f"a scan needs a channel (dims times ssm_ratio) and a state (d_state) at least, got {inner_dim} and "
                f"{d_state}"
            )
        self.inner_dim, self.d_state, self.dt_rank, self.directions = inner_dim, d_state, dt_rank, directions
        self.x_proj = nn.Linear(inner_dim, directions * (dt_rank + 2 * d_state), bias=False)
        self.dt_weight = nn.Parameter(torch.empty(directions, inner_dim, dt_rank))
        self.dt_bias = nn.Parameter(torch.empty(directions, inner_dim, dtype=torch.float32))
        self.A_log = nn.Parameter(torch.empty(directions, inner_dim, d_state, dtype=torch.float32))
        self.D = nn.Parameter(torch.empty(directions, inner_dim, dtype=torch.float32))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as Mamba does (Gu and Dao 2023, section 3.6 and the S4D-real initialisation).

        A is -(1 … N) and D is 1. softplus(dt_bias) is log-uniform in [1e-3, 0.1]. The weights that project the step
        sizes are uniform within ±R^-1/2. The weights that project the input are uniform within ±D^-1/2.
        """
        nn.init.uniform_(self.x_proj.weight, -(self.inner_dim**-0.5), self.inner_dim**-0.5)
        nn.init.uniform_(self.dt_weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        step = torch.empty_like(self.dt_bias).uniform_(math.log(STEP_MIN), math.log(STEP_MAX)).exp()
        self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        states = torch.arange(1, self.d_state + 1, dtype=self.A_log.dtype, device=self.A_log.device)
        self.A_log.copy_(states.log().expand_as(self.A_log))
        nn.init.ones_(self.D)

    def decay(self) -> Tensor:
        """Return the decay rates A ``[K, D, N]``, which are negative.

        They are float32, or float64 for a float64 model, even if the model was cast to a smaller dtype.
        """
        return -torch.exp(self.A_log.to(accumulate_dtype(self.A_log.dtype)))

    def project(
        self,
        x: Tensor,  # [B, L, D]
    ) -> SelectiveInputs:
        """Compute the step sizes and the input and output weights of all K models from the tokens."""
        batch, directions = x.shape[0], self.directions
        sizes = (self.dt_rank, self.d_state, self.d_state)
        width = directions * sum(sizes)
        missing, missing_rank = -width % self.multiple, -self.dt_rank % self.multiple
        product = F.linear(x, F.pad(self.x_proj.weight, (0, 0, 0, missing)))[..., :width] if missing else self.x_proj(x)
        step, B, C = product.unflatten(-1, (directions, sum(sizes))).transpose(1, 2).split(sizes, dim=-1)
        weight: Tensor = self.dt_weight
        if missing_rank:
            step, weight = (F.pad(factor, (0, missing_rank)) for factor in (step, weight))
        # One product for each sample and direction. Its result has the order of axes that the scan reads and that the
        # gradient from the scan has, so neither is copied. The gradient of the weight is one product a sample, too, and
        # those fill a GPU: a product of few rows by few columns over all tokens of a batch occupies a few
        # multiprocessors, and libraries cut no batch of products along the tokens.
        weight = weight.to(step.dtype).expand(batch, -1, -1, -1).flatten(0, 1)  # [B·K, D, R]
        delta = torch.bmm(step.flatten(0, 1), weight.mT)  # [B·K, L, D]
        return SelectiveInputs(_split_first_axis(delta, (batch, directions)), B, C)

    def extra_repr(self) -> str:
        """Return the sizes, which ``print(model)`` shows."""
        return f"D={self.inner_dim}, N={self.d_state}, R={self.dt_rank}, K={self.directions}"


def _split_first_axis(
    x: Tensor,  # [B·K, L, D]
    sizes: tuple[int, int],  # B, K
) -> Tensor:  # [B, K, L, D]
    """View the first axis as two.

    A compiled training step keeps the steps for the backward pass. TorchInductor takes every kept tensor of four axes
    for a map of channels. In a network with convolutions it copies such a tensor to the format ``channels_last``, and
    copies it back in either pass. This function makes it keep the tensor of three axes and view that again.
    """
    return recomputed(torch.unflatten, x, 0, sizes)
