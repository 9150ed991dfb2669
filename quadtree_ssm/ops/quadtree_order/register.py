"""Fake rules of the quadtree operators; neither has a gradient of its own. The schemas are in ``csrc/library.cpp``."""

import torch

from ssm_core import _ext


def _fake_order(choice, height, width, levels, shift_y, shift_x):
    return choice.new_empty(choice.shape[0], height * width)


def _fake_mask_gradient(a, b, choice, height, width, shift_y, shift_x):
    return a.new_empty(a.shape[0], 4, dtype=torch.float64 if a.dtype == torch.float64 else torch.float32)


if _ext.load():
    torch.library.register_fake("quadtree_ssm::quadtree_order", _fake_order)
    torch.library.register_fake("quadtree_ssm::mask_gradient", _fake_mask_gradient)
