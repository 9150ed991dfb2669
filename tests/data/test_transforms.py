"""The recipes' augmentation on a photo, over many draws: any operation of RandAugment at any strength."""

import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from ssm_train.data.transforms import TrainTransform
from ssm_train.runtime.reproducibility import seed_sample


def test_the_recipes_augmentation_never_fails():
    photo = Image.fromarray(load_sample_image("flower.jpg")).resize((96, 64))
    transform = TrainTransform(size=32, auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25)
    outputs = []
    for draw in range(400):
        seed_sample(0, 0, draw)
        outputs.append(transform(photo))
    assert torch.stack(outputs).isfinite().all()
    assert len({float(x.sum()) for x in outputs}) > 390
