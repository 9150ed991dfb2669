"""Tests of the scaling of images: it is read from configs, applied and undone."""

import numpy as np
import pytest
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ssm_train.data.normalization import Normalization, of_config, of_model, of_transform

IMAGENET = Normalization(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, 224)
GREY = Normalization((0.3,), (0.25,), 32)


@pytest.mark.parametrize("normalization", [IMAGENET, GREY], ids=["colours", "grey"])
def test_pixels_are_the_inverse_of_inputs(normalization):
    channels = () if normalization.channels == 1 else (3,)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, *channels), np.uint8)
    inputs = normalization.inputs(pixels / 255)
    assert inputs.shape == (1, len(normalization.mean), 9, 7)
    assert inputs.dtype == torch.float32
    assert np.array_equal(normalization.pixels(inputs[0]), pixels)


def test_inputs_by_hand():
    image = np.full((2, 3, 3), (0.1, 0.2, 0.3))
    inputs = Normalization((0.1, 0.1, 0.1), (0.5, 0.5, 0.25), 8).inputs(image)
    assert inputs.is_contiguous()
    torch.testing.assert_close(inputs[0, :, 0, 0], torch.tensor([0.0, 0.2, 0.8]))
    torch.testing.assert_close(inputs, inputs[:, :, :1, :1].expand(1, 3, 2, 3))


def test_pixels_are_clipped():
    far = torch.tensor([-9.0, 0.0, 9.0]).view(1, 1, 3)
    assert GREY.pixels(far).tolist() == [[0, round(0.3 * 255), 255]]


def test_the_mode_follows_the_channels():
    assert IMAGENET.channels == 3
    assert GREY.channels == 1


def test_of_a_transform():
    whole = {"type": "TestTransform", "size": 48, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    assert of_transform(whole) == Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 48)
    assert of_transform({}) == IMAGENET
    assert of_transform({"size": 64}) == IMAGENET._replace(side=64)
    one = of_transform({"size": 64}, channels=1)
    assert (one.mean, one.std) == (IMAGENET_DEFAULT_MEAN[:1], IMAGENET_DEFAULT_STD[:1])


PREPROCESSOR = {"type": "SegDataPreProcessor", "mean": [51.0, 102.0, 153.0], "std": [25.5, 51.0, 255.0]}


@pytest.mark.parametrize(
    ("size", "side"), [(None, 224), ((96, 128), 96), ((512, 512), 512)], ids=["no size", "oblong", "square"]
)
def test_of_a_model_with_a_preprocessor(size, side):
    inputs = PREPROCESSOR if size is None else {**PREPROCESSOR, "size": size}
    found = of_model({"data_preprocessor": inputs, "backbone": {"type": "x"}}, {"mean": [0.9], "std": [0.9]})
    assert found == Normalization((0.2, 0.4, 0.6), (0.1, 0.2, 1.0), side), "the preprocessor goes before the transform"


def test_of_a_classifier():
    backbone = {"type": "quadtree_ssm.QuadMamba", "in_chans": 1}
    without_mean = {"type": "TestTransform", "size": 32}
    expected = Normalization(IMAGENET_DEFAULT_MEAN[:1], IMAGENET_DEFAULT_STD[:1], 32)
    assert of_model({"type": "ImageClassifier", "backbone": backbone}, without_mean) == expected
    assert of_model(backbone, without_mean) == expected, "a backbone alone"
    # mmengine's own preprocessor does not state the scaling.
    plain = {"data_preprocessor": {"type": "BaseDataPreprocessor"}, "backbone": {"type": "x"}}
    assert of_model(plain, {"mean": [0.5, 0.5, 0.5], "std": [1.0, 1.0, 1.0]}).mean == (0.5, 0.5, 0.5)
    assert of_model(plain, None) is None
    assert of_model({"data_preprocessor": None, "backbone": {"type": "x"}}, None) is None


def test_of_a_config():
    transform = {"mean": [0.5], "std": [0.25], "size": 16}
    loader = {"dataset": {"transform": transform}}
    for key in ("test_dataloader", "val_dataloader"):
        assert of_config({"model": {"backbone": {}}, key: loader}) == Normalization((0.5,), (0.25,), 16)
    assert of_config({"model": {"backbone": {}}}) is None
    assert of_config({}) is None
