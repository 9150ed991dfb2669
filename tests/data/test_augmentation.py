"""Tests that augmentation by the batch gives what timm gives with Pillow, from the same random numbers."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos
from sklearn.datasets import load_sample_images
from timm.data import create_transform
from torch._dynamo.testing import CompileCounter
from torch.utils.data import DataLoader

from ssm_core.errors import ConfigError
from ssm_train.data.augmentation import drawing_of, finish
from ssm_train.data.augmentation.erasing import noise
from ssm_train.data.augmentation.transfer import pack, starts_of, unpack
from ssm_train.data.collate import collate_images, split_batch
from ssm_train.data.datasets import ImageFolder
from ssm_train.data.prepare.photos import PHOTOS, load_photo
from ssm_train.data.transforms import TrainTransform
from ssm_train.runtime.reproducibility import SeededDataset, make_reproducible, seed_sample

# Every value keeps its level, so that a test that fails shows differences in levels.
LEVELS = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast",
    "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    """Return photographs of several shapes and contents, among them a flat one and one of two levels."""
    found = [photos.astronaut(), photos.chelsea(), photos.coffee(), photos.rocket(), *load_sample_images().images]
    flat = np.full((40, 50, 3), 77, np.uint8)
    two_levels = np.zeros((50, 40, 3), np.uint8)
    two_levels[10:20, 5:30] = (255, 3, 128)
    return [Image.fromarray(picture) for picture in (*found, flat, two_levels)]


def whole(size, policy, interpolation="bicubic", **others):
    """Make timm's transform for images of exactly that size, which it takes whole: resizing changes nothing."""
    height, width = size
    return create_transform(
        size, is_training=True, scale=(1, 1), ratio=(width / height,) * 2, hflip=0.5, auto_augment=policy,
        interpolation=interpolation, **{"color_jitter": None, **LEVELS, **others},
    )  # fmt: skip


def compare(transform, images, seeds):
    """Transform images by timm and by the batch.

    Returns:
        timm's results, ours, and the numbers drawn.
    """
    drawing = drawing_of(transform, len(images[0].getbands()))
    expected, samples = [], []
    for image, seed in zip(images, seeds, strict=True):
        seed_sample(0, 0, seed)
        expected.append(transform(image))
        seed_sample(0, 0, seed)
        pixels, drawn = drawing(image)
        assert pixels.dtype == torch.uint8
        samples.append({"inputs": pixels, "drawn": drawn, "data_samples": {"label": 0, "unreadable": ""}})
    batch = collate_images(samples)
    return torch.stack(expected), finish(batch["inputs"], batch["drawn"]), batch["drawn"]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
@pytest.mark.parametrize("increasing", [0, 1])
@pytest.mark.parametrize("size", [(33, 57), (32, 32), (2, 3)])
def test_every_operation_is_timms_at_any_magnitude(size, increasing, interpolation, pictures):
    resized = [picture.resize(size[::-1]) for picture in (*pictures[:4], *pictures[-2:])]
    expected, found, kinds = [], [], set()
    for magnitude, name in itertools.product((0, 1, 7, 10), OPERATIONS):
        transform = whole(size, f"rand-m{magnitude}-n1-p1.0-inc{increasing}", interpolation)
        policy = transform.transforms[2]
        policy.ops = [op for op in policy.ops if op.name.removesuffix("Increasing") == name]
        assert len(policy.ops) == 1
        timms, ours, drawn = compare(transform, resized, range(len(resized)))
        expected.append(timms)
        found.append(ours)
        kinds |= set(drawn["kinds"].flatten().tolist())
    assert torch.equal(torch.cat(expected), torch.cat(found))
    assert kinds == set(range(1, 10))


@pytest.mark.parametrize(
    ("policy", "others"),
    [
        ("rand-m9-mstd0.5-inc1", {}),
        ("rand-m9-mstd0.5-inc1", {"interpolation": "random"}),
        ("rand-m20-n3-mmax30-p0.8-inc1", {}),
        ("rand-m7-mstd101-tweights", {"interpolation": "bilinear"}),
        ("v0r-mstd0.5", {}),
        ("original", {}),
        (None, {"color_jitter": (0.4, 0.6, 0.9)}),
        (None, {"color_jitter": 0.4, "re_prob": 0.9, "re_mode": "pixel"}),
    ],
)
def test_policies_draw_and_give_what_timms_do(policy, others, pictures):
    many = [picture.resize((81, 65)) for picture in pictures] * 8
    expected, found, drawn = compare(whole((65, 81), policy, **others), many, range(len(many)))
    for place, (top, left, height, width) in enumerate(drawn["erased"]):  # noise is compared below
        for images in (expected, found):
            images[place, :, top : top + height, left : left + width] = 0
    assert torch.equal(expected, found)
    assert bool((drawn["erased"][:, 2] > 0).any()) == ("re_prob" in others)


def test_transforms_are_pickled_for_loading_processes(pictures):
    transform = TrainTransform(32, auto_augment="rand-m9-n3-p1.0", random_erasing=1.0, on_device=True)
    copied = pickle.loads(pickle.dumps(transform))
    found = []
    for one in (transform, copied):
        seed_sample(0, 0, 1)
        pixels, drawn = one(pictures[0])
        found.append(finish(pixels[None], {key: value[None] for key, value in drawn.items()}))
    assert torch.equal(*found)


def test_a_batch_of_one(pictures):
    for seed in range(20):
        expected, found, _ = compare(whole((48, 48), "rand-m9-p1.0"), [pictures[0].resize((48, 48))], [seed])
        assert torch.equal(expected, found)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
def test_crops_are_timms_to_the_bit(interpolation, pictures):
    for mode, size in itertools.product(("RGB", "L"), (64, 224)):
        settings = {key: values[: len(mode)] for key, values in LEVELS.items()}
        transform = create_transform(
            size, is_training=True, hflip=0.5, interpolation=interpolation, color_jitter=None, **settings
        )
        images = [picture.convert(mode) for picture in pictures] * 3
        expected, found, _ = compare(transform, images, range(len(images)))
        assert torch.equal(expected, found)


@pytest.fixture(scope="module")
def photo_files(tmp_path_factory):
    """Return a folder of 120 files of several formats, modes and sizes: photographs, noise, ramps and patterns."""
    root, draw = tmp_path_factory.mktemp("photos"), np.random.RandomState(0)
    originals = [Image.fromarray(load_photo(name)) for names in PHOTOS.values() for name in names]
    forms = [("jpg", "RGB"), ("png", "RGB"), ("jpg", "L"), ("png", "P"), ("png", "RGBA"), ("jpg", "CMYK")]
    for number in range(120):
        height, width = draw.randint(40, 600, 2)
        ramp = np.add.outer(np.linspace(0, 200, height), np.linspace(0, 55, width))[..., None]
        generated = (
            draw.randint(0, 256, (height, width, 3)),
            ramp * draw.uniform(0.2, 1, 3),
            (ramp % 16 < 8) * draw.randint(1, 256, 3),
            np.full((height, width, 3), draw.randint(0, 256, 3)),
        )
        image = originals[number // 2 % len(originals)].resize((width, height))
        if number % 2:
            image = Image.fromarray(generated[number // 2 % len(generated)].astype(np.uint8))
        ending, mode = forms[number % len(forms)]
        path = root / "train" / "ab"[number % 2] / f"{number:03d}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.convert(mode).save(path)
    return root


@pytest.mark.parametrize("interpolation", ["bicubic", "random"])
def test_the_whole_recipe_gives_timms_images_to_the_bit(interpolation, photo_files):
    settings = {"size": 224, "auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": interpolation}
    timms, plain, ours = (
        SeededDataset(ImageFolder(TrainTransform(**settings, **others), str(photo_files)), 5)
        for others in ({"random_erasing": 0.5}, {}, {"random_erasing": 0.5, "on_device": True})
    )
    erased_images, kinds = 0, set()
    for start in range(0, len(ours), 24):
        batch = collate_images([ours[index] for index in range(start, start + 24)])
        for place, found in enumerate(finish(batch["inputs"], batch["drawn"])):
            expected, whole = timms[start + place]["inputs"], plain[start + place]["inputs"]
            top, left, height, width = batch["drawn"]["erased"][place]
            erased = torch.zeros(224, 224, dtype=torch.bool)
            erased[top : top + height, left : left + width] = True
            assert torch.equal(found[:, ~erased], expected[:, ~erased])
            # timm erased the same rectangle: there, and nowhere else, its image is not the one without erasing.
            assert torch.equal((expected != whole).any(0), erased)
            noise_is_another = (found != expected)[:, erased]
            assert noise_is_another.float().mean() > 0.999 or not height
            erased_images += bool(height)
        kinds |= set(batch["drawn"]["kinds"].flatten().tolist())
    assert len(ours) == 120
    assert 40 < erased_images < 80
    assert kinds == set(range(10))


def test_grey_images_are_erased_and_normalised():
    image = Image.fromarray(photos.camera()).resize((40, 40))
    transform = create_transform(
        40, is_training=True, scale=(1, 1), ratio=(1, 1), color_jitter=None, re_prob=0.5, re_mode="pixel", mean=(0.3,),
        std=(0.4,),
    )  # fmt: skip
    expected, found, drawn = compare(transform, [image] * 12, range(12))
    kept = torch.from_numpy(drawn["erased"][:, 2] == 0)
    assert 0 < kept.sum() < 12
    assert torch.equal(found[kept], expected[kept])
    assert not torch.equal(found[~kept], expected[~kept])


def test_noise_is_normal_and_each_image_has_its_own():
    keys = torch.tensor([0, 1, 2**32 - 1, 12345])
    drawn = noise(torch.empty(4, 3, 150, 150), keys)
    assert drawn.shape == (4, 3, 150, 150)
    assert drawn.isfinite().all()
    values = drawn.double().flatten(1)
    moments = [values.pow(power).mean(1) for power in (1, 2, 3, 4)]
    for moment, expected, spread in zip(moments, (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
        assert ((moment - expected).abs() < 5 * (spread / values.shape[1]) ** 0.5).all()
    between = torch.corrcoef(torch.cat([values, values.roll(1, 1), values.roll(150, 1)]))
    assert (between - torch.eye(12)).abs().max() < 5 / values.shape[1] ** 0.5
    alone = noise(torch.empty(1, 3, 150, 150), keys[3:])
    assert torch.equal(alone[0], drawn[3])


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_augment": "augmix-m3-w3"},
        {"auto_augment": "3a"},
        {"mean": (0.5,) * 6, "std": (0.5,) * 6},
    ],
)
def test_what_the_device_cannot_do_stays_with_the_loading_processes(settings, lines):
    channels = len(settings.get("mean", (0,) * 3))
    image = photos.astronaut() if channels == 3 else np.dstack([photos.astronaut()] * 2).astype(np.float32)
    image = Image.fromarray(image) if channels == 3 else image
    results = []
    for on_device in (False, True):
        transform = TrainTransform(32, on_device=on_device, **settings)
        seed_sample(0, 0, 0)
        results.append(transform(image))
    assert torch.equal(*results)
    assert any("the loading processes compute" in line for line in lines) == (channels == 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    """Return a folder of two classes of six JPEGs each, one of which is cut off."""
    root = tmp_path_factory.mktemp("images")
    for number, picture in enumerate(pictures[:6] * 2):
        path = root / "train" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.resize((120, 90)).save(path)
    path.write_bytes(path.read_bytes()[:500])
    return root


def batches(folder, workers, skip=0, epoch=1):
    transform = TrainTransform(48, auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5, on_device=True)
    loader = DataLoader(
        ImageFolder(transform, str(folder)), batch_size=4, num_workers=workers, collate_fn=collate_images
    )
    loader = make_reproducible(loader, seed=7)
    loader.batch_sampler.sampler.epoch = epoch
    loader.batch_sampler.skip(skip)
    return list(loader)


def test_the_same_bits_from_any_number_of_workers_and_after_a_restart(folder):
    expected = batches(folder, 0)
    inputs = [finish(batch["inputs"], batch["drawn"]) for batch in expected]
    assert [list(batch["data_samples"]["unreadable"]) for batch in expected] == [[], [3], []]
    for found, skipped in ((batches(folder, 2), 0), (batches(folder, 1, skip=2), 2)):
        for batch, wanted in zip(found, inputs[skipped:], strict=True):
            assert torch.equal(finish(batch["inputs"], batch["drawn"]), wanted)
    other = batches(folder, 0, epoch=2)
    assert not torch.equal(finish(other[0]["inputs"], other[0]["drawn"]), inputs[0])


def test_compiled_functions_serve_batches_of_any_make_up(folder):
    counter = CompileCounter()
    for batch in [*batches(folder, 0), *batches(folder, 0, epoch=2), *batches(folder, 0, epoch=3)]:
        expected = finish(batch["inputs"], batch["drawn"])
        assert torch.equal(finish(batch["inputs"], batch["drawn"], counter), expected)
    assert counter.frame_count <= 5  # three warps, the noise and the scaling
    alone = split_batch(batch, [1, 3])[0]
    assert torch.equal(finish(alone["inputs"], alone["drawn"], counter), expected[:1])


def test_parts_of_a_batch_are_finished_like_the_whole(folder):
    batch = batches(folder, 0)[0]
    expected = finish(batch["inputs"], batch["drawn"])
    parts = split_batch(batch, [1, 3])
    assert torch.equal(torch.cat([finish(part["inputs"], part["drawn"]) for part in parts]), expected)


def test_mixed_precision_changes_nothing(folder):
    batch = batches(folder, 0)[0]
    expected = finish(batch["inputs"], batch["drawn"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(finish(batch["inputs"], batch["drawn"]), expected)


def test_arrays_are_packed_and_viewed_as_they_were():
    draw = np.random.RandomState(0)
    arrays = [
        draw.randint(0, 256, (3, 5), np.uint8), draw.randn(2, 6), np.zeros((0, 4), np.int64), np.array([5]),
        draw.randn(7).astype(np.float32), np.arange(12).reshape(3, 4)[:, ::2], np.zeros((0, 256), np.uint8),
    ]  # fmt: skip
    packed = torch.empty(starts_of(arrays)[-1], dtype=torch.uint8)
    pack(arrays, packed)
    for array, found in zip(arrays, unpack(packed, arrays), strict=True):
        assert found.numpy().dtype == array.dtype
        np.testing.assert_array_equal(found.numpy(), array)


def test_datasets_of_one_loader_agree(pictures):
    finished, unfinished = (TrainTransform(32, on_device=on_device) for on_device in (False, True))
    samples = {"data_samples": {"label": 0, "unreadable": ""}}
    pixels, drawn = unfinished(pictures[0])
    jittered = TrainTransform(32, color_jitter=0.4, on_device=True)(pictures[0])
    first = {"inputs": pixels, "drawn": drawn, **samples}
    batch = collate_images([first, {"inputs": jittered.pixels, "drawn": jittered.drawn, **samples}])
    assert batch["drawn"]["kinds"].shape == (2, 3)
    assert finish(batch["inputs"], batch["drawn"]).shape == (2, 3, 32, 32)
    with pytest.raises(ConfigError, match="transforms with on_device=True and others without it"):
        collate_images([first, {"inputs": finished(pictures[0]), **samples}])
