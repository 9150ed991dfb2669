"""Computes the quadtree order and the paper's sequence from the rectangles that the paper describes."""

import torch


def windows(height, width, chosen):
    """Yield the windows as the paper describes them, in the order in which they are visited.

    The quadrant ``chosen`` is split again. With "all" every quadrant is split.
    """

    def quarter(top, left, h, w):
        r, c = -(-h // 2), -(-w // 2)
        return [
            (top, left, r, c),
            (top, left + c, r, w - c),
            (top + r, left, h - r, c),
            (top + r, left + c, h - r, w - c),
        ]

    for q, window in enumerate(quarter(0, 0, height, width)):
        if chosen == "all" or q == chosen:
            yield from quarter(*window)
        else:
            yield window


def brute_force_order(height, width, chosen, shift=(0, 0)):
    rolled = torch.arange(height * width).view(height, width).roll(shift, (0, 1))
    parts = [rolled[t : t + h, left : left + w].flatten() for t, left, h, w in windows(height, width, chosen)]
    return torch.cat(parts)


def literal_sequence(x, mask, height, width, shift):
    """Return fine(x·m) + coarse(x·(1 - m)) by scattering, as the paper does. The mask m [B, 4] gets a gradient."""
    fine = brute_force_order(height, width, "all", shift)
    coarse = brute_force_order(height, width, None, shift)
    quadrant = torch.zeros(height * width, dtype=torch.int64)
    for q, (t, left, h, w) in enumerate(windows(height, width, None)):
        rolled = torch.arange(height * width).view(height, width).roll(shift, (0, 1))
        quadrant[rolled[t : t + h, left : left + w].flatten()] = q
    m = mask[:, quadrant, None]
    return (x * m)[:, fine] + (x * (1 - m))[:, coarse], m, fine.argsort(), coarse.argsort()


def literal_input(x, mask, choice, height, width, shift):
    """Return the paper's sequence, with the tokens at the places that the composed order gives them."""
    order = torch.stack([brute_force_order(height, width, int(c), shift) for c in choice])
    sequence, *_ = literal_sequence(x, mask, height, width, shift)
    return sequence.gather(1, order.argsort(1).unsqueeze(-1).expand_as(x))


def literal_output(y, mask, choice, height, width, shift):
    """Return fine⁻¹(y)·m + coarse⁻¹(y)·(1 - m) of the sequence y, whose tokens the composed order has taken back."""
    order = torch.stack([brute_force_order(height, width, int(c), shift) for c in choice])
    _, m, fine, coarse = literal_sequence(y, mask, height, width, shift)
    sequence = y.gather(1, order.unsqueeze(-1).expand_as(y))
    return sequence[:, fine] * m + sequence[:, coarse] * (1 - m)
