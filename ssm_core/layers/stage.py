"""One stage of a backbone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .mixer import Block
from .norm import FusedLayerNorm, Pending, sum_of


class Stage(nn.Module):
    """One stage of the backbone: downsampling, then blocks, then a closing norm.

    The first stage has no downsampling. Some families have no closing norm.

    Args:
        downsample: the downsampling, or ``nn.Identity()``.
        blocks: the blocks.
        norm: the closing norm, or ``nn.Identity()``.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[Block], norm: nn.Module) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.grad_checkpointing = False

    def forward(
        self,
        x: Tensor,  # [B, H, W, C]
    ) -> Tensor:  # [B, ⌈H/2⌉, ⌈W/2⌉, C'], or [B, H, W, C] in the first stage
        """Run the stage. Each block receives what the scan of the previous block chose."""
        x = self.downsample(x)
        chosen: Any = None
        for block in self.blocks:
            # Blocks of other classes, such as a user's wrapper, take and give maps.
            ours = isinstance(block, Block) and block.leaves_sums()
            if isinstance(x, Pending) and not ours:
                x = sum_of(x)
            arguments = (x, chosen, True) if ours else (x, chosen)
            if self.grad_checkpointing and torch.is_grad_enabled():
                # checkpoint restores the random state, so that the second forward pass makes the same random choices.
                x, chosen = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x, chosen = block(*arguments)
        if not isinstance(x, Pending):
            return self.norm(x)
        return self.norm.add(x).normed if isinstance(self.norm, FusedLayerNorm) else self.norm(sum_of(x))
