"""Tests of image transforms: the same draw gives the same input, and no draw makes an augmentation fail."""

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from ssm_train.data.transforms import TestTransform, TrainTransform
from ssm_train.runtime.reproducibility import seed_sample


def test_the_recipes_augmentation_never_fails():
    """RandAugment draws 400 times on a photo. A draw may be any of its operations at any strength."""
    photo = Image.fromarray(load_sample_image("flower.jpg")).resize((96, 64))
    transform = TrainTransform(size=32, auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25)
    outputs = []
    for draw in range(400):
        seed_sample(0, 0, draw)
        outputs.append(transform(photo))
    assert torch.stack(outputs).isfinite().all()
    assert len({float(x.sum()) for x in outputs}) > 390


def test_a_draw_depends_on_seed_epoch_and_sample():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    train = TrainTransform(16, auto_augment="rand-m9-mstd0.5-inc1", random_erasing=1.0)
    outputs = []
    for epoch in (0, 0, 1):
        seed_sample(0, epoch, 5)
        outputs.append(train(image))
    assert outputs[0].shape == (3, 16, 16)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_test_images_are_scaled_and_cropped():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    grey = TestTransform(16, crop_ratio=1.0, mean=(0.5,), std=(0.25,))(Image.new("L", (16, 16), 255))
    torch.testing.assert_close(grey, torch.full((1, 16, 16), 2.0))
    whole, centre = TestTransform(16, crop_ratio=1.0), TestTransform(16, crop_ratio=0.5)
    assert whole(image).shape == centre(image).shape == (3, 16, 16)
    assert not torch.equal(whole(image), centre(image))
