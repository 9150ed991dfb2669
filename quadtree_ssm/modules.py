"""The scans of QuadMamba: the first two stages use the quadtree scan, the last two stages use the cross scan."""

from typing import Any, Literal, NamedTuple

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import LayerNorm
from torch import Tensor, nn

from quadtree_ssm.ops import quadtree_order, straight_through_input, straight_through_output, token_logits
from quadtree_ssm.ops.token_logits import has_token_logits_kernel
from quadtree_ssm.partition import quadrant_means, quadrant_of_tokens, window_raster_slots
from ssm_core.layers import OneOperator, SelectiveSSM, apart, gelu, reads_apart
from ssm_core.layers.norm import autocast_dtype, is_hooked
from ssm_core.ops import directional_scan
from ssm_core.ops.checks import accumulate_dtype

QuadtreeLevels = Literal[0, 1, 2]
Quadrant = Literal[0, 1, 2, 3]
Choice = Literal["learned", "random"] | Quadrant
PredictorContext = Literal["local", "global"]
# Signs of the window shift along rows and columns. Two consecutive blocks of the network share one pair of signs, and
# the next two blocks use the next pair.
SHIFT_SIGNS = ((1, 1), (-1, -1), (1, -1), (-1, 1))

# These look at shapes or values. Graphs of torch.fx call them as they are and do not look into them.
for _function in (
    "accumulate_dtype",
    "directional_scan",
    "gelu",
    "quadrant_means",
    "quadrant_of_tokens",
    "quadtree_order",
    "straight_through_input",
    "straight_through_output",
    "window_raster_slots",
):
    torch.fx.wrap(_function)


@torch.fx.wrap
def random_quadrants(batch: int, device: torch.device) -> Tensor:  # [batch], 0 … 3
    """Draw quadrants from torch's default generator."""
    return torch.randint(4, (batch,), device=device)


class ChosenQuadrant(NamedTuple):
    """What a quadtree scan chose. :func:`ssm_core.layers.record_scans` records it."""

    choice: Tensor  # [B], number (in raster order) of the quadrant of the shifted map that was split again
    logits: Tensor | None  # [B, 4], mean score of each quadrant; None if the choice is not learned
    score: Tensor | None  # [B, H, W], score of every token of the unshifted map; None if the choice is not learned
    height: int
    width: int
    shift: tuple[int, int]  # the partition divides torch.roll(map, shift)
    levels: QuadtreeLevels


class ScorePredictor(OneOperator):
    """Predicts how informative each token is.

    The predictor has an LN and four linear layers. They give two log-probabilities, and the first one is the score. One
    operator computes them without gradients where there is a kernel (:func:`~quadtree_ssm.ops.token_logits`).

    Args:
        dim: number D of channels of the tokens.
        context: ``"local"`` to score every token by its own features. ``"global"`` replaces the second half of the
            hidden channels by their mean over the token's quadrant, as in the first release. Both have the same
            parameters.
    """

    NORMS_BEFORE_PRODUCTS = ("norm",)

    def __init__(self, dim: int, context: PredictorContext = "local") -> None:
        super().__init__()
        if context not in ("local", "global"):
            raise ValueError(f"the predictor's context must be 'local' or 'global', got {context!r}")
        self.context = context
        self.norm = LayerNorm(dim, eps=1e-5)
        self.fc1 = nn.Linear(dim, dim)
        self.fc2 = nn.Linear(dim, dim // 2)
        self.fc3 = nn.Linear(dim // 2, dim // 4)
        self.fc4 = nn.Linear(dim // 4, 2)

    def forward(
        self,
        x: Tensor,  # [B, H, W, D]
    ) -> Tensor:  # [B, H, W]
        """Compute the log-probability that a token is informative, in float32 or a wider dtype."""
        # Those who take features by name from graphs of torch.fx expect the layers in them under their names.
        if not isinstance(x, torch.fx.Proxy) and self._is_one_operator(x):
            return F.logsigmoid(self._logits(x))
        x = gelu(self.fc1(self.norm(x)))
        if self.context == "global":
            x = self._with_global_half(x)
        x = gelu(self.fc3(gelu(self.fc2(x))))
        # The first channel of a log-softmax over two. It depends on the difference of the two logits alone, which one
        # product with a vector gives.
        weight, bias = (p.to(accumulate_dtype(p.dtype)) for p in (self.fc4.weight, self.fc4.bias))
        x = x @ (weight[0] - weight[1]).to(x.dtype)
        return F.logsigmoid(x.to(accumulate_dtype(x.dtype)) + (bias[0] - bias[1]))

    def _is_one_operator(self, x: Tensor) -> bool:
        """Whether the operator computes these layers here, and not gradients or what users put in their places."""
        layers = (self.fc1, self.fc2, self.fc3, self.fc4)
        if torch.is_grad_enabled() or not self.fused or self.context != "local":
            return False
        if any(type(layer) is not nn.Linear or layer.bias is None or is_hooked(layer) for layer in layers):
            return False
        if not isinstance(self.norm, LayerNorm) or is_hooked(self.norm):
            return False
        return has_token_logits_kernel(self.fc1.in_features, autocast_dtype(x, before_product=True), x.device)

    def _logits(
        self,
        x: Tensor,  # [B, H, W, D]
    ) -> Tensor:  # [B, H, W]
        dtype = autocast_dtype(x, before_product=True)
        weights = (self.fc1.weight, self.fc2.weight, self.fc3.weight)
        (weight1, weight2, weight3), fc4 = (weight.to(dtype) for weight in weights), self.fc4
        return token_logits(
            x.to(dtype), self.norm.weight, self.norm.bias, weight1, self.fc1.bias, weight2, self.fc2.bias, weight3,
            self.fc3.bias, fc4.weight[0] - fc4.weight[1], fc4.bias[0] - fc4.bias[1], self.norm.eps,
        )  # fmt: skip

    @staticmethod
    def _with_global_half(
        x: Tensor,  # [B, H, W, D]
    ) -> Tensor:
        batch, height, width, dim = x.shape
        local, wide = x.split((dim // 2, dim - dim // 2), dim=-1)
        means = quadrant_means(wide.permute(0, 3, 1, 2).flatten(0, 1)).unflatten(0, (batch, -1))  # [B, D/2, 4]
        quadrant = quadrant_of_tokens(height, width, device=x.device)
        return torch.cat([local, means.transpose(1, 2)[:, quadrant]], dim=-1)


class QuadtreeScan(SelectiveSSM):
    """The quadtree scan (QuadMamba, section 3.2), which divides the most informative quadrant more finely.

    A predictor scores every token. The quadrant with the highest mean score is split into four windows. In training,
    Gumbel noise is added to the mean scores. The sequence visits the quadrants in raster order. It visits the chosen
    quadrant window by window, and it visits each window and each other quadrant row by row. A second model scans the
    sequence backwards, and the two results are summed.

    Features are not moved in memory, because the scan receives the order of the tokens. A straight-through estimator
    passes the gradient of the discrete choice to the predictor.

    Args:
        inner_dim: number D of channels.
        d_state: number N of states per channel.
        dt_rank: rank R of the projection that gives the step sizes.
        levels: 2 splits the chosen quadrant; 1 stops at the four quadrants; 0 visits the map row by row. Levels 0 and 1
            need no choice and have no predictor.
        choice: ``"learned"``, or the number of the quadrant that is always chosen. ``"random"`` ignores the features:
            training draws a quadrant for every map in every forward pass, and evaluation always splits quadrant 0. Only
            a learned choice has a predictor.
        context: what the predictor reads; see :class:`ScorePredictor`.
        shift_signs: signs of the window shift along rows and columns; None for no shift. The shift is an eighth of the
            map's height, rounded down.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        inner_dim: int,
        d_state: int,
        dt_rank: int,
        levels: QuadtreeLevels = 2,
        choice: Choice = "learned",
        context: PredictorContext = "local",
        shift_signs: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(inner_dim, d_state, dt_rank, directions=2)
        if levels not in (0, 1, 2):
            raise ValueError(f"a quadtree has 0, 1 or 2 levels here, got {levels!r}")
        if choice not in ("learned", "random", 0, 1, 2, 3):
            raise ValueError(f"choice must be 'learned', 'random' or a quadrant 0, 1, 2, 3, got {choice!r}")
        self.levels = levels
        self.shift_signs = shift_signs
        learned = choice == "learned" and levels == 2
        self.predictor = ScorePredictor(inner_dim, context) if learned else None
        self.random_choice = choice == "random" and levels == 2
        self.fixed_choice = choice if isinstance(choice, int) else 0

    def shift(self, height: int) -> tuple[int, int]:
        """Return the numbers of rows and columns by which the map is rolled before it is divided."""
        if self.shift_signs is None or self.levels == 0:
            return (0, 0)
        return (self.shift_signs[0] * (height // 8), self.shift_signs[1] * (height // 8))

    def quadrant_logits(
        self,
        score: Tensor,  # [B, H, W]
        shift: tuple[int, int],
    ) -> Tensor:  # [B, 4]
        """Return the mean score of each quadrant of the shifted map. The scores are shifted like their tokens."""
        return quadrant_means(score, shift)

    @reads_apart(2)
    def forward(
        self,
        x: Tensor | tuple[Tensor, ...],  # [B, H, W, D]
        previous: Any = None,
    ) -> tuple[Tensor, ChosenQuadrant]:
        """Scan the map. Return the result ``[B, H, W, D]`` and what the scan chose."""
        of_first, x = apart(x, 2)  # the predictor reads the first; without it, the projection of the scan
        batch, height, width, _ = x.shape
        shift = self.shift(height)
        score = logits = mask = None
        if self.random_choice and self.training:
            choice = random_quadrants(batch, x.device)
        elif self.predictor is None:
            choice = x.new_full((batch,), self.fixed_choice, dtype=torch.int64)
        else:
            score = self.predictor(of_first)
            logits = self.quadrant_logits(score, shift)
            mask = straight_through_choice(logits, noise=self.training)
            choice = mask.argmax(-1)
        y = self.scan((of_first.flatten(1, 2), x.flatten(1, 2)), choice, mask, height, width, shift)
        return y.unflatten(1, (height, width)), ChosenQuadrant(choice, logits, score, height, width, shift, self.levels)

    def scan(
        self,
        x: Tensor | tuple[Tensor, ...],  # [B, L, D]
        choice: Tensor,  # [B]
        mask: Tensor | None,  # [B, 4]
        height: int,
        width: int,
        shift: tuple[int, int],
    ) -> Tensor:  # [B, L, D]
        """Scan forwards and backwards along the order of the quadtree, and sum the results.

        Two straight-through operators compute the gradient of the mask.
        """
        if mask is None:
            # With a fixed choice all samples have the same order.
            chosen = choice if self.random_choice and self.training else choice[:1]
            return self.scan_along(x, quadtree_order(chosen, height, width, levels=self.levels, shift=shift))
        order = quadtree_order(choice, height, width, levels=self.levels, shift=shift)
        _, x = apart(x, 2)
        x = straight_through_input(x, mask, choice, height, width, shift=shift)
        y = self.scan_along(x, order)
        return straight_through_output(y, mask, choice, height, width, shift=shift)

    def scan_along(
        self,
        x: Tensor | tuple[Tensor, ...],  # [B, L, D]
        order: Tensor | None,  # [B, L] or [1, L]; None scans the tokens in the order of memory
    ) -> Tensor:  # [B, L, D]
        """Scan forwards and backwards along one order, and sum the results."""
        of_projection, x = apart(x, 2)
        delta, B, C = self.project(of_projection)
        if order is not None:
            order = order.unsqueeze(1)
        return directional_scan(x, delta, self.decay(), B, C, self.D, self.dt_bias, order=order, reverse=(False, True))


class ReleasedQuadtreeScan(QuadtreeScan):
    """The quadtree scan of the released code. Released weights need this scan, because they were trained with it.

    It differs from :class:`QuadtreeScan` in two ways:

    - The tokens of the chosen quadrant take their places in the raster of the 4 × 4 windows. This raster is not nested
      in the order of the quadrants. Some of these tokens therefore share a place with a token of another quadrant, and
      the sequence holds the sum of both. Equally many places of the sequence stay empty.
    - The scores are not shifted with the map.

    The released code also adds Gumbel noise at inference, so that its outputs differ from run to run. This class adds
    noise only in training.
    """

    def quadrant_logits(
        self,
        score: Tensor,  # [B, H, W]
        shift: tuple[int, int],
    ) -> Tensor:  # [B, 4]
        """Return the mean score of each quadrant of the *unshifted* map."""
        return quadrant_means(score)

    def scan(
        self,
        x: Tensor | tuple[Tensor, ...],  # [B, L, D]
        choice: Tensor,  # [B]
        mask: Tensor | None,  # [B, 4]
        height: int,
        width: int,
        shift: tuple[int, int],
    ) -> Tensor:  # [B, L, D]
        """Scan the sequence fine(x·m) + coarse(x·(1 - m)). Return fine⁻¹(y)·m + coarse⁻¹(y)·(1 - m) of its result y."""
        if self.levels < 2:
            return super().scan(x, choice, mask, height, width, shift)
        _, x = apart(x, 2)
        if mask is None:
            mask = F.one_hot(choice, 4)
        quadrant = quadrant_of_tokens(height, width, shift, x.device).flatten()
        chosen = mask.to(x.dtype)[:, quadrant].unsqueeze(-1)  # [B, L, 1]
        fine, coarse = (window_raster_slots(height, width, n, shift, x.device) for n in (4, 2))
        sequence = (x * chosen)[:, fine.argsort()] + (x * (1 - chosen))[:, coarse.argsort()]
        y = self.scan_along(sequence, None)
        return y[:, fine] * chosen + y[:, coarse] * (1 - chosen)


def straight_through_choice(
    logits: Tensor,  # [B, 4]
    noise: bool,
) -> Tensor:  # [B, 4]
    """Return the one-hot vector of the highest logit. Its gradient is that of the softmax.

    With ``noise`` the result is a hard Gumbel-softmax at temperature 1.

    Args:
        logits: unnormalised log-probabilities.
        noise: whether to add Gumbel noise. It comes from torch's default generator.
    """
    if noise:
        return F.gumbel_softmax(logits, tau=1.0, hard=True)
    soft = logits.softmax(-1)
    # Not F.one_hot, which torch.vmap cannot map.
    hard = torch.zeros_like(soft).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    return hard + (soft - soft.detach())


@torch.fx.wrap
def cross_order(height: int, width: int, device: torch.device) -> Tensor:  # [4, L]
    """Return the tokens of a map row by row, column by column, and both once more."""
    rows = torch.arange(height * width, device=device)
    columns = rows.unflatten(0, (height, width)).t().flatten()
    return torch.stack([rows, columns, rows, columns])


class CrossScan(SelectiveSSM):
    """The cross scan of VMamba: four models scan the map, and their results are summed.

    The four orders are: row by row, column by column, and the reverse of both.

    Args:
        inner_dim: number D of channels.
        d_state: number N of states per channel.
        dt_rank: rank R of the projection that gives the step sizes.
    """

    def __init__(self, inner_dim: int, d_state: int, dt_rank: int) -> None:
        super().__init__(inner_dim, d_state, dt_rank, directions=4)

    @reads_apart(2)
    def forward(
        self,
        x: Tensor | tuple[Tensor, ...],  # [B, H, W, D]
        previous: Any = None,
    ) -> tuple[Tensor, None]:
        """Scan the map. Return the result ``[B, H, W, D]``, and None because this scan chooses nothing."""
        of_projection, x = apart(x, 2)
        height, width = x.shape[1:3]
        tokens = x.flatten(1, 2)
        delta, B, C = self.project(of_projection.flatten(1, 2))
        y = directional_scan(
            tokens,
            delta,
            self.decay(),
            B,
            C,
            self.D,
            self.dt_bias,
            order=cross_order(height, width, x.device),
            reverse=(False, False, True, True),
        )
        return y.unflatten(1, (height, width)), None
