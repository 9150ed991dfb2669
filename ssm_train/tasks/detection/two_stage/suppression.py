"""Non-maximum suppression of groups of boxes at once, without waiting for the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Rounds on a GPU, where nobody looks whether more are needed. Groups of 500 to 2,000 random boxes need up to 9.
ROUNDS = 20


@torch.no_grad()
def kept(
    groups: Sequence[Tensor],  # [B, n, 4] each
    valid: Sequence[Tensor],  # [B, n] bool each
    threshold: float,
) -> list[Tensor]:  # [B, n] bool each
    """Which boxes non-maximum suppression keeps, in every group of an image on its own.

    A box is dropped if it overlaps a box that is kept and has a higher score. torchvision goes through the boxes one by
    one, and the host waits for the number of those that are kept. Here all boxes are looked at in every round: a box is
    kept if none of those that are kept so far drops it. A round settles the boxes whose fate depends on one more box
    than in the round before. When nothing changes any more, this is the same. A CPU finds out. On a GPU there are 20
    rounds, and boxes that depend on a longer chain may be kept or dropped.

    Args:
        groups: boxes, those with the highest scores first. The groups may have different numbers of boxes.
        valid: whether a box takes part.
        threshold: intersection over union above which a box is dropped.
    """
    batch, length = len(groups[0]), max(group.shape[1] for group in groups)
    # Sums of zeros and ones are above 0 in any precision.
    on_cpu = groups[0].device.type == "cpu"
    dtype = torch.float32 if on_cpu else torch.bfloat16
    drops = groups[0].new_zeros(len(groups), batch, length, length, dtype=dtype)
    alive = valid[0].new_zeros(len(groups), batch, length)
    for number, (group, own) in enumerate(zip(groups, valid, strict=True)):
        count = group.shape[1]
        alive[number, :, :count] = own
        drops[number, :, :count, :count] = (_overlaps(group) > threshold).triu_(1)
    alive, drops = alive.flatten(0, 1), drops.flatten(0, 1)
    keep = alive
    for _ in range(length if on_cpu else ROUNDS):
        before, keep = keep, alive & (torch.bmm(keep[:, None].to(dtype), drops)[:, 0] == 0)
        if on_cpu and torch.equal(before, keep):
            break
    found = keep.view(len(groups), batch, length).unbind(0)
    return [own[:, : group.shape[1]] for own, group in zip(found, groups, strict=True)]


def _overlaps(
    boxes: Tensor,  # [B, n, 4]
) -> Tensor:  # [B, n, n]
    """Overlaps as torchvision has them: NaN for two boxes without area."""
    left, top, right, bottom = boxes.unbind(-1)
    inside = torch.minimum(right[:, :, None], right[:, None]).sub_(torch.maximum(left[:, :, None], left[:, None]))
    high = torch.minimum(bottom[:, :, None], bottom[:, None]).sub_(torch.maximum(top[:, :, None], top[:, None]))
    inside = inside.clamp_(min=0).mul_(high.clamp_(min=0))
    area = (right - left) * (bottom - top)
    return inside.div_((area[:, :, None] + area[:, None]).sub_(inside))
