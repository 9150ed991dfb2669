"""Compares quadrants, windows and their means with slices and with the released code's reshapes."""

import pytest
import torch

from quadtree_ssm.partition import quadrant_means, quadrant_of_tokens, window_raster_slots
from ssm_core.testing import assert_close

SIZES = [(2, 2), (2, 3), (5, 4), (7, 9), (8, 12)]
SHIFTS = [(0, 0), (1, 1), (-1, -1), (2, -1), (-3, 20)]


def cut(length):
    return slice(0, -(-length // 2)), slice(-(-length // 2), length)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_quadrants_and_their_means_equal_slices_of_the_rolled_map(size, shift):
    values = torch.randn(3, *size, dtype=torch.float64)
    rolled = values.roll(shift, (1, 2))
    means, quadrant = quadrant_means(values, shift), quadrant_of_tokens(*size, shift).roll(shift, (0, 1))
    for q in range(4):
        rows, columns = cut(size[0])[q // 2], cut(size[1])[q % 2]
        assert (quadrant[rows, columns] == q).all()
        assert_close(means[:, q], rolled[:, rows, columns].mean((1, 2)))


@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_slots_equal_the_released_reshapes(shift):
    height, width = 8, 12
    rolled = torch.arange(height * width).view(height, width).roll(shift, (0, 1))
    coarse = rolled.view(2, height // 2, 2, width // 2).permute(0, 2, 1, 3).flatten()
    fine = rolled.view(4, height // 4, 4, width // 4).permute(0, 2, 1, 3).flatten()
    assert torch.equal(window_raster_slots(height, width, 2, shift).argsort(), coarse)
    assert torch.equal(window_raster_slots(height, width, 4, shift).argsort(), fine)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("windows", [2, 4])
def test_slots_are_a_permutation_at_any_size(size, windows):
    slots = window_raster_slots(*size, windows, (1, -2))
    assert torch.equal(slots.sort().values, torch.arange(size[0] * size[1]))


def test_released_slots_overlap_by_an_eighth():
    fine, coarse = window_raster_slots(8, 8, 4), window_raster_slots(8, 8, 2)
    for choice in range(4):
        slots = torch.where(quadrant_of_tokens(8, 8).flatten() == choice, fine, coarse)
        counts = torch.bincount(slots, minlength=64)
        assert (counts == 2).sum() == (counts == 0).sum() == 8
