"""The base class of all scan modules. It holds the parameters of selective state space models."""

import math
from typing import NamedTuple

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_core.ops.checks import accumulate_dtype

# The range of the initial step sizes softplus(dt_bias), as in Mamba.
STEP_MIN, STEP_MAX = 1e-3, 0.1

torch.fx.wrap("accumulate_dtype")  # a leaf of graphs, because it looks at a value


class SelectiveInputs(NamedTuple):
    """The inputs of a selective scan that depend on the tokens, listed in the order of the tokens."""

    delta: Tensor  # [B, K, L, D], step sizes before bias and softplus
    B: Tensor  # [B, K, L, N]
    C: Tensor  # [B, K, L, N]


class SelectiveSSM(nn.Module):
    """The base of the scan modules: K selective state space models that read the same input.

    A subclass implements ``forward(x, previous)``. ``x`` is the features ``[B, H, W, D]``. ``previous`` is what the
    scan of the previous block chose, or None in the first block of a stage. The method returns the result
    ``[B, H, W, D]`` and what this scan chose. A choice is a named tuple, which
    :func:`~ssm_core.layers.record_scans` can record. A scan that chooses nothing returns None.

    Args:
        inner_dim: number D of channels.
        d_state: number N of states per channel.
        dt_rank: rank R of the projection that gives the step sizes.
        directions: number K of models.

    Raises:
        ValueError: there is no channel or no state.

    Attributes:
        multiple: what the rank of a product is padded to; 1 for no padding. See :func:`pad_projections`.
    """

    multiple = 1

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
        batch, length, _ = x.shape
        sizes = (self.dt_rank, self.d_state, self.d_state)
        dt_weight: Tensor = self.dt_weight
        if self.multiple == 1:
            step, B, C = (
                self.x_proj(x).unflatten(-1, (self.directions, sum(sizes))).split(sizes, dim=-1)
            )  # [B, L, K, ·]
        else:
            step, B, C, dt_weight = self._padded(x)
        # Each direction is one product over the merged batch and token axes, so that neither factor has to be copied.
        delta = torch.bmm(step.permute(2, 0, 1, 3).flatten(1, 2), dt_weight.mT)  # [K, B·L, D]
        delta = delta.unflatten(1, (batch, length)).transpose(0, 1)
        return SelectiveInputs(delta, B.transpose(1, 2), C.transpose(1, 2))

    def _padded(
        self,
        x: Tensor,  # [B, L, D]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute what the steps are projected from [B, L, K, R'], B and C [B, L, K, N], and the weight [K, D, R'].

        Rows of zeros make R' and the width of the whole product multiples, so that every slice begins at one. The steps
        come first, then what is not projected further.
        """
        directions, states = self.directions, self.d_state
        missing = -self.dt_rank % self.multiple
        of_step, of_rest = self.x_proj.weight.unflatten(0, (directions, self.dt_rank + 2 * states)).split(
            (self.dt_rank, 2 * states), dim=1
        )
        weight = torch.cat([F.pad(of_step, (0, 0, 0, missing)).flatten(0, 1), of_rest.flatten(0, 1)])
        widths = directions * (self.dt_rank + missing), 2 * directions * states
        rest_missing = -sum(widths) % self.multiple
        product = F.linear(x, F.pad(weight, (0, 0, 0, rest_missing)))
        step, rest, _ = product.split((*widths, rest_missing), dim=-1)
        B, C = rest.unflatten(-1, (directions, 2 * states)).split(states, dim=-1)
        return step.unflatten(-1, (directions, -1)), B, C, F.pad(self.dt_weight, (0, missing))

    def extra_repr(self) -> str:
        """Return the sizes, which ``print(model)`` shows."""
        return f"D={self.inner_dim}, N={self.d_state}, R={self.dt_rank}, K={self.directions}"


def pad_projections(model: nn.Module, multiple: int = 8) -> nn.Module:
    """Let the scans of a network pad the weights of their low-rank products when they are called.

    Tensor cores read numbers by eight. A rank that is no multiple of eight makes a library take slow kernels for every
    product of which it is a side. The parameters and, but for rounding, the results stay as they are.

    Args:
        model: any network with scans. It is changed in place.
        multiple: what ranks are padded to. 1 undoes it.

    Returns:
        The model.

    Raises:
        ValueError: ``multiple`` is not positive.
    """
    if multiple < 1:
        raise ValueError(f"pad_projections: multiple must be 1 at least, got {multiple}")
    for module in model.modules():
        if isinstance(module, SelectiveSSM):
            module.multiple = multiple
    return model
