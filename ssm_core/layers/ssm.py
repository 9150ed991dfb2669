"""Parameters of the selective state space models that every scan module holds."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssm_core.ops.checks import accumulate_dtype

# Range of the step sizes softplus(dt_bias) at the start, as in Mamba.
STEP_MIN, STEP_MAX = 1e-3, 0.1


class SelectiveInputs(NamedTuple):
    """What a selective scan takes beside its input and parameters, at the tokens' own places."""

    delta: Tensor  # [B, K, L, D], before bias and softplus
    B: Tensor  # [B, K, L, N]
    C: Tensor  # [B, K, L, N]


class SelectiveSSM(nn.Module):
    """Base of the scan modules: K selective state space models over one input.

    A subclass's ``forward(x, previous)`` takes the features ``[B, H, W, D]`` and what the previous block's scan chose
    (None in a stage's first block), and returns the result ``[B, H, W, D]`` with what it chose itself: a named tuple
    that :func:`~ssm_core.layers.record_scans` can show, or None where nothing is chosen.

    Args:
        inner_dim: channels D.
        d_state: states N of a channel.
        dt_rank: rank R of the step size's projection.
        directions: number K of models.
    """

    # Parameters of two or more dimensions that weight decay must leave alone: decay would pull the dynamics of the
    # state, not a linear map, to zero. (The 1-d rule finds the others.)
    NO_WEIGHT_DECAY = ("A_log", "D", "dt_bias")

    def __init__(self, inner_dim: int, d_state: int, dt_rank: int, directions: int) -> None:
        super().__init__()
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

        A = -(1 … N), D = 1, softplus(dt_bias) log-uniform in [1e-3, 0.1], the step's projection uniform within
        ±R^-1/2, the input's projection uniform within ±D^-1/2.
        """
        nn.init.uniform_(self.x_proj.weight, -(self.inner_dim**-0.5), self.inner_dim**-0.5)
        nn.init.uniform_(self.dt_weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        step = torch.empty_like(self.dt_bias).uniform_(math.log(STEP_MIN), math.log(STEP_MAX)).exp()
        self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        states = torch.arange(1, self.d_state + 1, dtype=self.A_log.dtype, device=self.A_log.device)
        self.A_log.copy_(states.log().expand_as(self.A_log))
        nn.init.ones_(self.D)

    def decay(self) -> Tensor:
        """Decay rates A ``[K, D, N]``, negative; float32 (or float64) whatever the model was cast to."""
        return -torch.exp(self.A_log.to(accumulate_dtype(self.A_log.dtype)))

    def project(
        self,
        x: Tensor,  # [B, L, D]
    ) -> SelectiveInputs:
        """Step sizes, input and output weights of every model, from the tokens."""
        batch, length, _ = x.shape
        sizes = (self.dt_rank, self.d_state, self.d_state)
        step, B, C = self.x_proj(x).unflatten(-1, (self.directions, sum(sizes))).split(sizes, dim=-1)  # [B, L, K, ·]
        # One product a direction with batch and tokens merged: neither side has to be copied for it.
        delta = torch.bmm(step.permute(2, 0, 1, 3).flatten(1, 2), self.dt_weight.mT)  # [K, B·L, D]
        delta = delta.unflatten(1, (batch, length)).transpose(0, 1)
        return SelectiveInputs(delta, B.transpose(1, 2), C.transpose(1, 2))

    def extra_repr(self) -> str:
        """The sizes, for ``print(model)``."""
        return f"D={self.inner_dim}, N={self.d_state}, R={self.dt_rank}, K={self.directions}"
