"""Tests of images in arrays, and of crops and flips of whole batches."""

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import write_idx
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from torchvision.transforms.v2 import functional as reference

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.augmentation import finish
from ssm_train.data.collate import collate_images
from ssm_train.data.datasets import ImageArrays
from ssm_train.data.transforms import BatchTransform
from ssm_train.runtime.reproducibility import make_reproducible
from ssm_train.tasks.classification.preprocessor import ImagePreprocessor

CLASSES = ["cat", "dog"]
GREY = {"mean": (0.3,), "std": (0.2,)}


@pytest.fixture
def arrays(tmp_path):
    """Write ten images in colours and their labels, and return the function that makes a dataset of them."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 12, 3), np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    np.save(tmp_path / "labels.npy", np.arange(10) % 2)

    def make(transform=None, **options):
        files = {"images": str(tmp_path / "images.npy"), "labels": str(tmp_path / "labels.npy"), "classes": CLASSES}
        return ImageArrays(transform or {"type": "BatchTransform", "size": 12}, **{**files, **options})

    return make, pixels


def test_views_that_change_nothing_and_flips():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 1, 9, 9), np.uint8))
    expected = (pixels.float() / 255 - 0.3) / 0.2
    for hflip, wanted in ((0.0, expected), (1.0, expected.flip(-1))):
        drawn = BatchTransform(9, scale=(1.0, 1.0), hflip=hflip, **GREY).draw(6)
        torch.testing.assert_close(finish(pixels, drawn), wanted, rtol=0, atol=2e-4)


def test_a_view_is_the_crop_that_torchvision_resizes():
    """A smooth image, cropped at whole pixels. Only near the border do the two take in other pixels."""
    side, size, top, left = 32, 64, 5, 9
    waves = np.cos(np.arange(48) / 5)[:, None] + np.sin(np.arange(48) / 7)
    image = torch.from_numpy(((waves + 2.5) * 55).round().astype(np.uint8))[None, None]
    view = np.zeros((1, 2, 3), np.float32)
    view[0, 0] = side / 48, 0, (2 * left + side) / 48 - 1
    view[0, 1] = 0, side / 48, (2 * top + side) / 48 - 1
    drawn = {"view": view, "size": np.array([size]), "mean": np.zeros((1, 1), np.float32)}
    found = finish(image, {**drawn, "std": np.ones((1, 1), np.float32)})
    cropped = image[..., top : top + side, left : left + side].float()
    expected = reference.resize(cropped, [size, size], reference.InterpolationMode.BICUBIC, antialias=False) / 255
    inner = np.s_[..., 5:-5, 5:-5]
    torch.testing.assert_close(found[inner], expected[inner], rtol=0, atol=1e-4)


def test_drawn_views_stay_in_the_image_and_have_the_shares_that_were_asked_for():
    np.random.seed(0)
    view = BatchTransform(8, scale=(0.25, 0.81), hflip=0.25, **GREY).draw(4000)["view"]
    side = np.abs(view[:, 0, 0])
    assert np.array_equal(side, view[:, 1, 1])
    assert 0.5 <= side.min() < 0.51 < 0.89 < side.max() <= 0.9
    assert (np.abs(view[:, :, 2]) + side[:, None] <= 1 + 1e-6).all()
    assert (view[:, 0, 0] < 0).mean() == pytest.approx(0.25, abs=0.03)


def test_a_batch_has_the_images_and_labels_that_samples_have(arrays):
    make, pixels = arrays
    data = make()
    batch = collate_images(data.load_batch([7, 2]))
    assert np.array_equal(batch["inputs"].permute(0, 2, 3, 1), pixels[[7, 2]])
    assert batch["data_samples"]["label"].tolist() == [1, 0]
    assert batch["data_samples"]["index"].tolist() == [7, 2]
    one = collate_images([data[7]])
    assert torch.equal(one["inputs"][0], batch["inputs"][0])
    assert one["drawn"].keys() == batch["drawn"].keys()
    assert ImagePreprocessor()(one)["inputs"].shape == (1, 3, 12, 12)
    test = make({"type": "TestTransform", "size": 12, "crop_ratio": 1.0, "mean": (0, 0, 0), "std": (1, 1, 1)})
    found = collate_images(test.load_batch([7, 2]))["inputs"]
    assert torch.equal((found * 255).round().byte(), batch["inputs"]), "another transform is called for every image"
    assert len(make(first=4)) == 4


def test_batches_of_a_run_are_those_of_the_resumed_run(arrays):
    make, _ = arrays

    def batches(epoch, skipped=0):
        sampler = SequentialSampler(range(10))
        sampler.epoch = epoch
        loader = DataLoader(make(), batch_sampler=BatchSampler(sampler, 4, False), collate_fn=collate_images)
        loader = make_reproducible(loader, seed=3)
        loader.batch_sampler.skip(skipped)
        return [batch["drawn"]["view"] for batch in loader]

    first = batches(0)
    assert all(map(np.array_equal, first[1:], batches(0, skipped=1)))
    assert not np.array_equal(first[0], batches(1)[0]), "every epoch draws anew"
    assert not np.array_equal(first[0], first[1])


def test_files_of_mnists_format(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    write_idx(tmp_path / "images.gz", pixels)
    write_idx(tmp_path / "labels.gz", np.array([1, 0, 0, 1, 1], np.uint8))
    files = str(tmp_path / "images.gz"), str(tmp_path / "labels.gz")
    data = ImageArrays({"type": "BatchTransform", "size": 32, **GREY}, *files, CLASSES)
    assert np.array_equal(data.load_batch([3, 1])["inputs"][:, 0], pixels[[3, 1]])
    assert isinstance(data.load(0), Image.Image)
    assert data.name(2) == f"{tmp_path}/images.gz[2]"


def test_faulty_files_and_arguments(arrays, tmp_path):
    make, pixels = arrays
    np.save(tmp_path / "floats.npy", pixels / 255)
    np.save(tmp_path / "flat.npy", pixels[0, 0])
    np.save(tmp_path / "three.npy", np.arange(10) % 3)
    np.save(tmp_path / "none_0.npy", np.zeros((0, 8, 8), np.uint8))
    np.save(tmp_path / "labels_0.npy", np.zeros(0, np.int64))
    np.save(tmp_path / "thin.npy", np.zeros((10, 0, 8), np.uint8))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "images.npy").read_bytes()[:-50])
    (tmp_path / "pickled.npy").write_bytes(b"\x80\x04K\x01.")
    for options, words in (
        ({"images": str(tmp_path / "none.npy")}, "there is no file .*none.npy"),
        ({"images": str(tmp_path / "cut.npy")}, "cut.npy is no array of NumPy, or not all of it"),
        ({"images": str(tmp_path / "pickled.npy")}, "pickled.npy is no array of NumPy"),
        ({"images": str(tmp_path / "flat.npy")}, r"an array of 3 or 4 dimensions is due"),
        ({"images": str(tmp_path / "floats.npy")}, "hold float64 and int64: images are uint8, labels integers"),
        ({"images": str(tmp_path / "thin.npy")}, r"thin.npy has no pixels: the shape of its array is \(10, 0, 8\)"),
        ({"images": str(tmp_path / "none_0.npy"), "labels": str(tmp_path / "labels_0.npy")}, "has no pixels"),
        ({"labels": str(tmp_path / "three.npy")}, "labels from 0 to 2 for 10 images of 2 classes"),
    ):
        with pytest.raises(DataError, match=words):
            make(**options)
    with pytest.raises(ConfigError, match=r"has 10 images in .*, and first=11"):
        make(first=11)
    with pytest.raises(ConfigError, match="images of 3 channels, and the mean and std of their"):
        make({"type": "BatchTransform", "size": 12, **GREY}).load_batch([0])
    with pytest.raises(ConfigError, match="scale is two shares of an area"):
        BatchTransform(12, scale=(0.5, 1.5))
