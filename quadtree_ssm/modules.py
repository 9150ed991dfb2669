"""The scans of QuadMamba: the quadtree scan of the first two stages, the cross scan of the last two."""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm
from torch import Tensor, nn

from quadtree_ssm.ops import quadtree_order, straight_through_input, straight_through_output
from quadtree_ssm.partition import quadrant_means, quadrant_of_tokens, window_raster_slots
from ssm_core.layers import SelectiveSSM
from ssm_core.ops import directional_scan
from ssm_core.ops.checks import accumulate_dtype

QuadtreeLevels = Literal[0, 1, 2]
Quadrant = Literal[0, 1, 2, 3]
PredictorContext = Literal["local", "global"]
# Signs of the window shift along rows and columns; each serves two blocks of the network, then the next one comes.
SHIFT_SIGNS = ((1, 1), (-1, -1), (1, -1), (-1, 1))


class ChosenQuadrant(NamedTuple):
    """What a quadtree scan chose, for :func:`ssm_core.layers.record_scans`."""

    choice: Tensor  # [B], the quadrant of the shifted map that was split again, in raster order
    logits: Tensor | None  # [B, 4], mean score of each quadrant; None where the choice is fixed
    score: Tensor | None  # [B, H, W], score of every token of the unshifted map; None where the choice is fixed
    height: int
    width: int
    shift: tuple[int, int]  # the partition lies over torch.roll(map, shift)
    levels: QuadtreeLevels


class ScorePredictor(nn.Module):
    """How informative each token is: LN and four linear layers, then the first of two log-probabilities.

    Args:
        dim: channels D of the tokens.
        context: ``"local"``, every token for itself; or ``"global"``, the second half of the hidden channels replaced
            by their mean over the token's quadrant (as in the first release). The parameters are the same.
    """

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
        """Log-probability of being informative, in float32 at least."""
        x = F.gelu(self.fc1(self.norm(x)))
        if self.context == "global":
            x = self._with_global_half(x)
        x = self.fc4(F.gelu(self.fc3(F.gelu(self.fc2(x)))))
        x = x.to(accumulate_dtype(x.dtype))
        # The first channel of a log-softmax over two.
        return F.logsigmoid(x[..., 0] - x[..., 1])

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
    """The quadtree scan (QuadMamba, section 3.2): a sequence that looks more closely at the most informative quadrant.

    A predictor scores every token; the quadrant with the highest mean score (in training, with Gumbel noise) is split
    into four windows. The sequence walks the quadrants in raster order, the chosen one window by window, each window
    row by row; a second model walks it backwards and the two results are summed. Features never leave their places:
    the scan is given the order. The gradient reaches the predictor straight through the discrete choice.

    Args:
        inner_dim: channels D.
        d_state: states N of a channel.
        dt_rank: rank R of the step size's projection.
        levels: 2 splits the chosen quadrant; 1 stops at the four quadrants; 0 walks the map row by row. Below 2
            there is nothing to choose and no predictor.
        choice: ``"learned"``, or the number of a quadrant to choose always, without predictor.
        context: what the predictor sees, see :class:`ScorePredictor`.
        shift_signs: signs of the window shift along rows and columns; None for no shift. The shift is an eighth of the
            map's height, rounded down.
    """

    def __init__(
        self,
        inner_dim: int,
        d_state: int,
        dt_rank: int,
        levels: QuadtreeLevels = 2,
        choice: Literal["learned"] | Quadrant = "learned",
        context: PredictorContext = "local",
        shift_signs: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(inner_dim, d_state, dt_rank, directions=2)
        if levels not in (0, 1, 2):
            raise ValueError(f"a quadtree has 0, 1 or 2 levels here, got {levels!r}")
        if choice != "learned" and choice not in (0, 1, 2, 3):
            raise ValueError(f"choice must be 'learned' or a quadrant 0, 1, 2, 3, got {choice!r}")
        self.levels = levels
        self.shift_signs = shift_signs
        learned = choice == "learned" and levels == 2
        self.predictor = ScorePredictor(inner_dim, context) if learned else None
        self.fixed_choice = 0 if choice == "learned" else choice

    def shift(self, height: int) -> tuple[int, int]:
        """Rows and columns by which the map is rolled under the partition."""
        if self.shift_signs is None or self.levels == 0:
            return (0, 0)
        return (self.shift_signs[0] * (height // 8), self.shift_signs[1] * (height // 8))

    def quadrant_logits(
        self,
        score: Tensor,  # [B, H, W]
        shift: tuple[int, int],
    ) -> Tensor:  # [B, 4]
        """Mean score of each quadrant of the shifted map: a score moves with its token."""
        return quadrant_means(score, shift)

    def forward(
        self,
        x: Tensor,  # [B, H, W, D]
        previous: Any = None,
    ) -> tuple[Tensor, ChosenQuadrant]:
        """Scan the map; return the result ``[B, H, W, D]`` and what was chosen."""
        batch, height, width, _ = x.shape
        shift = self.shift(height)
        score = logits = mask = None
        if self.predictor is None:
            choice = torch.full((batch,), self.fixed_choice, device=x.device)
        else:
            score = self.predictor(x)
            logits = self.quadrant_logits(score, shift)
            mask = straight_through_choice(logits, noise=self.training)
            choice = mask.argmax(-1)
        y = self.scan(x.flatten(1, 2), choice, mask, height, width, shift)
        return y.unflatten(1, (height, width)), ChosenQuadrant(choice, logits, score, height, width, shift, self.levels)

    def scan(
        self,
        x: Tensor,  # [B, L, D]
        choice: Tensor,  # [B]
        mask: Tensor | None,  # [B, 4]
        height: int,
        width: int,
        shift: tuple[int, int],
    ) -> Tensor:  # [B, L, D]
        """Both scans along the quadtree's order, summed; the gradient of the mask is the two straight-through ops'."""
        if mask is None:
            # One order serves every sample.
            order = quadtree_order(choice[:1], height, width, levels=self.levels, shift=shift)
            return self.scan_along(x, order)
        order = quadtree_order(choice, height, width, levels=self.levels, shift=shift)
        x = straight_through_input(x, mask, choice, height, width, shift=shift)
        y = self.scan_along(x, order)
        return straight_through_output(y, mask, choice, height, width, shift=shift)

    def scan_along(
        self,
        x: Tensor,  # [B, L, D]
        order: Tensor | None,  # [B, L] or [1, L]; None for the places' own order
    ) -> Tensor:  # [B, L, D]
        """Both directions' scans along one order, summed."""
        delta, B, C = self.project(x)
        if order is not None:
            order = order.unsqueeze(1)
        return directional_scan(x, delta, self.decay(), B, C, self.D, self.dt_bias, order=order, reverse=(False, True))


class ReleasedQuadtreeScan(QuadtreeScan):
    """The quadtree scan as the released code has it, so that released weights give what they were trained for.

    It differs in two ways. The chosen quadrant's tokens take the places they have in the raster of the 4 × 4 windows,
    which is not nested in the quadrants' order: where they meet tokens of other quadrants the sequence holds the sum,
    and as many places stay empty. And the scores stay behind when the map is shifted. (The released code also draws
    Gumbel noise at inference, so that its outputs differ from run to run; here noise is for training alone.)
    """

    def quadrant_logits(
        self,
        score: Tensor,  # [B, H, W]
        shift: tuple[int, int],
    ) -> Tensor:  # [B, 4]
        """Mean score of each quadrant of the *unshifted* map."""
        return quadrant_means(score)

    def scan(
        self,
        x: Tensor,  # [B, L, D]
        choice: Tensor,  # [B]
        mask: Tensor | None,  # [B, 4]
        height: int,
        width: int,
        shift: tuple[int, int],
    ) -> Tensor:  # [B, L, D]
        """fine(x·m) + coarse(x·(1 - m)), scanned, and gathered back as fine⁻¹(y)·m + coarse⁻¹(y)·(1 - m)."""
        if self.levels < 2:
            return super().scan(x, choice, mask, height, width, shift)
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
    """One-hot of the highest logit, whose gradient is the softmax's; with ``noise``, a Gumbel-softmax at temperature 1.

    Args:
        logits: unnormalised log-probabilities.
        noise: whether to add Gumbel noise, drawn from torch's default generator.
    """
    if noise:
        return F.gumbel_softmax(logits, tau=1.0, hard=True)
    soft = logits.softmax(-1)
    hard = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())


class CrossScan(SelectiveSSM):
    """The cross scan of VMamba: row by row, column by column, and both backwards, by four models, summed.

    Args:
        inner_dim: channels D.
        d_state: states N of a channel.
        dt_rank: rank R of the step size's projection.
    """

    def __init__(self, inner_dim: int, d_state: int, dt_rank: int) -> None:
        super().__init__(inner_dim, d_state, dt_rank, directions=4)

    def forward(
        self,
        x: Tensor,  # [B, H, W, D]
        previous: Any = None,
    ) -> tuple[Tensor, None]:
        """Scan the map; return the result ``[B, H, W, D]``, and None because nothing is chosen."""
        height, width = x.shape[1:3]
        tokens = x.flatten(1, 2)
        rows = torch.arange(height * width, device=x.device)
        columns = rows.unflatten(0, (height, width)).t().flatten()
        delta, B, C = self.project(tokens)
        y = directional_scan(
            tokens,
            delta,
            self.decay(),
            B,
            C,
            self.D,
            self.dt_bias,
            order=torch.stack([rows, columns, rows, columns]),
            reverse=(False, False, True, True),
        )
        return y.unflatten(1, (height, width)), None
