"""Tests that a GPU finishes batches as the CPU does, and that the host does not wait for it."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos

from ssm_train.data.augmentation import finish
from ssm_train.data.collate import collate_images
from ssm_train.data.transforms import TrainTransform
from ssm_train.runtime.reproducibility import seed_sample

pytestmark = pytest.mark.gpu
POLICIES = {
    "bicubic": {"auto_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.25},
    "random": {"auto_augment": "rand-m9-n3-p0.9", "random_erasing": 0.5},
    "bilinear": {"color_jitter": 0.4},
}


def batch_of(interpolation, size=224, count=64):
    transform = TrainTransform(size, interpolation=interpolation, on_device=True, **POLICIES[interpolation])
    image, samples = Image.fromarray(photos.astronaut()), []
    for seed in range(count):
        seed_sample(0, 0, seed)
        pixels, drawn = transform(image)
        samples.append({"inputs": pixels, "drawn": drawn, "data_samples": {"label": 0, "unreadable": ""}})
    batch = collate_images(samples)
    return batch["inputs"], batch["drawn"]


def levels_between(first, second, drawn):
    """Return the differences in levels, but for noise, and the largest difference of noise."""
    difference = (first - second).abs()
    noise = torch.zeros(len(first), 1, *first.shape[2:], dtype=torch.bool)
    for place, (top, left, height, width) in enumerate(drawn["erased"]):
        noise[place, :, top : top + height, left : left + width] = True
    levels = torch.where(noise, 0, difference * torch.from_numpy(drawn["std"])[:, :, None, None] * 255)
    return levels, torch.where(noise, difference, 0).max()


@pytest.mark.parametrize("size", [224, 65])
@pytest.mark.parametrize("interpolation", POLICIES)
def test_levels_are_those_of_the_cpu(interpolation, size):
    pixels, drawn = batch_of(interpolation, size)
    found = finish(pixels.cuda(), drawn)
    levels, noise = levels_between(found.cpu(), finish(pixels, drawn), drawn)
    assert levels.max() < 1e-2
    assert noise < 1e-4
    assert torch.equal(finish(pixels.cuda(), drawn), found)


def test_compiled_functions_are_within_a_level():
    pixels, drawn = batch_of("bicubic")
    found = finish(pixels.cuda(), drawn, "inductor").cpu()
    levels, noise = levels_between(found, finish(pixels, drawn), drawn)
    assert noise < 1e-4
    # What stretches values enlarges a level of difference in the first operation; it is rare.
    assert (levels > 0.5).float().mean() < 1e-4
    once = {**drawn, "kinds": drawn["kinds"][:, :1]}
    found = finish(pixels.cuda(), once, "inductor").cpu()
    assert levels_between(found, finish(pixels, once), drawn)[0].max() < 1.001


@pytest.mark.parametrize("backend", [None, "inductor"])
def test_the_host_does_not_wait(backend):
    pixels, drawn = batch_of("bicubic")
    on_device = pixels.cuda()
    finish(on_device, drawn, backend)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        finish(on_device, drawn, backend)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_batch_of_one_and_one_without_operations():
    pixels, drawn = batch_of("bicubic", count=1)
    none = {**drawn, "kinds": np.zeros_like(drawn["kinds"])}
    for numbers in (drawn, none):
        levels, _ = levels_between(finish(pixels.cuda(), numbers).cpu(), finish(pixels, numbers), numbers)
        assert levels.max() < 1e-2
