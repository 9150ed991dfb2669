"""Tests of the compiled scaling against Pillow, and of the crop against timm: every byte has to be theirs."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation

from ssm_train.data.augmentation import crops
from ssm_train.data.augmentation.crops import crop_as_timm, has_resize, resize
from ssm_train.data.transforms import TrainTransform

ROOT = Path(__file__).parents[2]
needs_library = pytest.mark.skipif(not has_resize(), reason="there is no compiled library")
CHANNELS = pytest.mark.parametrize("channels", [1, 3])
# Two and three pixels of width, and heights around a hundred times as many: there Pillow changes the order.
SIDES = [(375, 500), (64, 63), (1, 1), (3, 700), (500, 2), (200, 2), (201, 2), (300, 3), (301, 3), (1, 5), (224, 90)]


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def picture_of(pixels):
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def by_pillow(pixels, size, cubic):
    method = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    return np.asarray(picture_of(pixels).resize(size[::-1], method)).reshape(*size, -1)


@needs_library
@CHANNELS
@pytest.mark.parametrize("cubic", [True, False], ids=["cubic", "linear"])
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_every_byte_is_pillows(sides, cubic, channels):
    chance, (height, width) = random.Random(sum(sides)), sides
    sizes = [(224, 224), sides, (height, 50), (50, width), (1, 1), (2 * height, 3 * width)]
    sizes += [(chance.randint(1, 300), chance.randint(1, 300)) for _ in range(40)]
    for pixels in (noise(*sides, channels), noise(*sides, channels) // 128 * 255):
        for size in sizes:
            found = resize(torch.from_numpy(pixels), size, cubic).numpy()
            assert np.array_equal(found, by_pillow(pixels, size, cubic)), size


@needs_library
def test_arrays_of_any_strides():
    pixels = torch.from_numpy(noise(40, 90))
    expected = resize(pixels, (16, 12), True)
    wide = torch.zeros(40, 180, 3, dtype=torch.uint8)
    wide[:, ::2] = pixels
    for given in (pixels.permute(2, 0, 1).contiguous().permute(1, 2, 0), wide[:, ::2]):
        assert not given.is_contiguous()
        assert torch.equal(resize(given, (16, 12), True), expected)


@needs_library
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
def test_numbers_and_bytes_are_timms(interpolation, mode):
    crop = RandomResizedCropAndInterpolation((48, 56), interpolation=interpolation)
    for seed in range(40):
        # The last ones are so narrow or wide that timm takes a crop in their middle.
        image = Image.fromarray(noise(50 + 12 * seed, 300 - 7 * seed, seed=seed)).convert(mode)
        random.seed(seed)
        expected = np.asarray(crop(image)).reshape(48, 56, -1)
        after = random.random()
        random.seed(seed)
        assert np.array_equal(crop_as_timm(crop, image).numpy(), expected)
        assert random.random() == after


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_library), False])
def test_a_crop_has_a_pixel(compiled, monkeypatch):
    monkeypatch.setattr(crops, "has_resize", lambda: compiled)
    crop = RandomResizedCropAndInterpolation(8, scale=(0.08, 0.08))
    for size in ((1, 1), (2, 1), (1, 3)):
        image = Image.new("RGB", size, (77, 77, 77))
        random.seed(0)
        boxes = [crop.get_params(image, crop.scale, crop.ratio) for _ in range(20)]
        assert any(not height or not width for _, _, height, width in boxes)
        random.seed(0)
        for _ in boxes:
            found = crop_as_timm(crop, image)
            assert found.shape == (8, 8, 3)
            assert found.eq(77).all()


@pytest.mark.parametrize("interpolation", ["nearest", "box", "hamming", "lanczos"])
def test_other_functions_are_pillows(interpolation):
    crop, image = RandomResizedCropAndInterpolation(24, interpolation=interpolation), picture_of(noise(60, 80))
    random.seed(1)
    expected = np.asarray(crop(image))
    random.seed(1)
    assert np.array_equal(crop_as_timm(crop, image).numpy(), expected)


@pytest.mark.parametrize("mode", ["P", "I", "F", "1", "LA", "RGBA", "CMYK"])
def test_other_modes_are_pillows(mode):
    crop, image = RandomResizedCropAndInterpolation(24, interpolation="bilinear"), Image.fromarray(noise(60, 80))
    image = image.convert("RGBA" if mode in ("LA", "RGBA") else "L" if mode in ("I", "F") else "RGB").convert(mode)
    random.seed(1)
    expected = np.asarray(crop(image))
    random.seed(1)
    assert np.array_equal(crop_as_timm(crop, image).numpy().squeeze(), expected)


def test_without_the_library(monkeypatch):
    monkeypatch.setattr(crops, "has_resize", lambda: False)
    with pytest.raises(RuntimeError, match="make setup"):
        resize(torch.zeros(3, 3, 3, dtype=torch.uint8), (2, 2), True)


@needs_library
def test_a_process_that_loaded_nothing_else():
    """The function loads the library by itself."""
    code = (
        "import torch; from ssm_train.data.augmentation.crops import resize; "
        "print(resize(torch.full((3, 3, 3), 5, dtype=torch.uint8), (2, 2), True).flatten().tolist())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.strip() == str([5] * 12), found.stderr


@needs_library
@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_is_the_same_without_the_library(channels, monkeypatch):
    colours = {"auto_augment": "rand-m9-mstd0.5-inc1"} if channels == 3 else {"mean": (0.5,), "std": (0.2,)}
    transform = TrainTransform(40, random_erasing=0.5, interpolation="random", on_device=True, **colours)
    for seed in range(12):
        image, found = picture_of(noise(70 + seed, 90 - seed, channels, seed)), []
        for compiled in (True, False):
            monkeypatch.setattr(crops, "has_resize", lambda compiled=compiled: compiled)
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            found.append(transform(image))
        assert torch.equal(found[0].pixels, found[1].pixels)
        assert found[0].pixels.stride() == found[1].pixels.stride()
        for key, value in found[0].drawn.items():
            assert np.array_equal(value, found[1].drawn[key]), key


@needs_library
@pytest.mark.parametrize(
    ("image", "size", "words"),
    [
        (torch.zeros(8, 9, 3), (4, 4), "must be uint8"),
        (torch.zeros(8, 9, dtype=torch.uint8), (4, 4), "shape"),
        (torch.zeros(8, 9, 4, dtype=torch.uint8), (4, 4), "1 or 3 channels"),
        (torch.zeros(9, 8, 3, dtype=torch.uint8).transpose(0, 1), (4, 4), "contiguous"),
        (torch.zeros(0, 9, 3, dtype=torch.uint8), (4, 4), "sides from 1"),
        (torch.zeros(9, 0, 3, dtype=torch.uint8), (4, 4), "sides from 1"),
        (torch.zeros(1, 1, 1, dtype=torch.uint8).expand(2**29, 1, 1)[:0], (4, 4), "sides from 1"),
        (torch.zeros(8, 9, 3, dtype=torch.uint8), (0, 4), "from 1 to"),
        (torch.zeros(8, 9, 3, dtype=torch.uint8), (4, -3), "from 1 to"),
        (torch.zeros(8, 9, 3, dtype=torch.uint8), (2**62, 4), "from 1 to"),
        (torch.zeros(8, 9, 3, dtype=torch.uint8), (-(2**63), 2**63 - 1), "from 1 to"),
        (torch.zeros(17, 9, 3, dtype=torch.uint8), (1, 2**26), "too high"),
    ],
    ids=str,
)
def test_hostile_calls_are_refused(image, size, words):
    with pytest.raises(RuntimeError, match=words):
        torch.ops.ssm_train.resize(image, *size, True)
