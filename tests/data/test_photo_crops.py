"""Tests of the crops of photographs: which pixels they come from, and the same bytes every time."""

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.prepare import photo_crops
from ssm_train.data.prepare.photos import PHOTOS, load_photo
from ssm_train.registry import DATASETS
from ssm_train.runtime.config import load_config

CONFIGS = ("mambatree/mambatree-nano_photos-224x224", "quadmamba/quadmamba-nano_photos-224x224")


def test_every_photo_is_a_class():
    assert sorted(photo_crops.CLASSES.values()) == sorted(name for names in PHOTOS.values() for name in names)
    assert list(photo_crops.CLASSES) == sorted(photo_crops.CLASSES)


@pytest.mark.parametrize("name", sorted(photo_crops.CLASSES.values()))
def test_the_parts_of_a_photo_are_apart(name):
    """The rows of a ramp say where a part was cut from."""
    photo = load_photo(name)
    ramp = np.arange(photo.size // 3).reshape(*photo.shape[:2], 1)
    rows = {split: photo_crops.part_of(ramp, split)[:, 0, 0] // photo.shape[1] for split in ("train", "val")}
    assert rows["val"][0] - rows["train"][-1] > 10
    assert min(len(part) for part in rows.values()) >= 100
    assert np.array_equal(photo_crops.part_of(photo, "val"), photo[-len(rows["val"]) :])


def test_crops_have_no_pixel_of_the_other_part():
    """Interpolation would mix in the bright rows beyond the part if it could read them."""
    photo = np.full((300, 200, 3), 255, np.uint8)
    part = photo_crops.part_of(photo, "train")
    part[:] = 10
    assert photo[len(part)].min() == 255
    draw = np.random.RandomState(0)
    for _ in range(200):
        assert np.asarray(photo_crops.crop(Image.fromarray(part), 64, draw)).max() == 10


def test_crops_are_rectangles_of_the_part():
    """Of a picture whose channels are the row and the column, the corners of a crop say what was cut out."""
    rows, columns = np.mgrid[:200, :240]
    part = Image.fromarray(np.stack([rows, columns, rows], -1).astype(np.uint8))
    draw, shares, ratios = np.random.RandomState(0), [], []
    for _ in range(300):
        crop = np.asarray(photo_crops.crop(part, 80, draw)).astype(float)
        height, width = ((crop[..., i].max() - crop[..., i].min()) * 80 / 79 for i in range(2))
        shares.append((height / 200, width / 240))
        ratios.append(height / width)
    assert 0.35 < np.min(shares) < 0.45
    assert np.max(shares) > 0.95
    assert max(max(ratios), 1 / min(ratios)) < 1.55


def test_colours_of_training_crops():
    """A third of the crops is grey before every channel gets a factor, so that their channels are proportional."""
    draw, grey, factors = np.random.RandomState(0), 0, []
    ramp = np.zeros((16, 16, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = 200, np.arange(16) * 12
    for _ in range(600):
        changed = np.asarray(photo_crops.recoloured(Image.fromarray(ramp), draw)).astype(float)
        coloured = np.ptp(changed[..., 0]) == 0
        grey += not coloured
        if coloured:
            factors.append(changed[0, 0, 0] / 200)
    assert grey / 600 == pytest.approx(1 / 3, abs=0.06)
    assert (min(factors), max(factors)) == (pytest.approx(0.5, abs=0.02), pytest.approx(1, abs=0.02))


def test_files(tmp_path):
    """Every class has its share of crops, a second run replaces the first, and the number of processes is no matter."""
    counts = {"train_count": 31, "val_count": 15}
    for root, processes in (("one", 1), ("two", 2)):
        (tmp_path / root / "photos" / "train" / "moon").mkdir(parents=True)
        (tmp_path / root / "photos" / "train" / "moon" / "99999.jpg").touch()
        words = photo_crops.prepare_photos(tmp_path / root, None, size=64, processes=processes, **counts)
        assert "31 crops of 15 photos, 64 × 64 pixels" in words
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.jpg"))
    assert len(files) == 46
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    # A validation crop has the colours of its part: the mean of a flat photo's part is the mean of its crop.
    crop = np.asarray(Image.open(tmp_path / "one" / "photos" / "val" / "retina" / "00013.jpg")).astype(float)
    whole = photo_crops.part_of(load_photo("retina"), "val").astype(float)
    assert np.argsort(crop.mean((0, 1))).tolist() == np.argsort(whole.mean((0, 1))).tolist()
    photo_crops.prepare_photos(tmp_path / "other", None, size=64, processes=1, seed=1, **counts)
    assert (tmp_path / "other" / files[0]).read_bytes() != (tmp_path / "one" / files[0]).read_bytes()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configs_read_them(name, tmp_path):
    photo_crops.prepare_photos(tmp_path, None, train_count=15, val_count=15, processes=1)
    cfg = load_config(name)
    for split in ("train", "val"):
        dataset = cfg[f"{split}_dataloader"].dataset
        dataset.root = str(tmp_path / "photos")
        with DefaultScope.overwrite_default_scope("ssm_train"):
            data = DATASETS.build(dataset)
        assert list(data.classes) == list(photo_crops.CLASSES)
        assert len(data) == 15
        assert data.transform is not None
    assert data[3]["inputs"].shape == (3, 224, 224)
    assert data[3]["data_samples"]["label"] == 3


@pytest.mark.parametrize(
    ("option", "value"), [("size", 31), ("train_count", 14), ("val_count", 14), ("seed", -1), ("processes", 0)]
)
def test_options(tmp_path, option, value):
    with pytest.raises(ConfigError, match="--size from 32 on, counts from 15 on"):
        photo_crops.prepare_photos(tmp_path, None, **{option: value})


def test_folders_that_are_not_for_photos(tmp_path):
    with pytest.raises(ConfigError, match="--from is for data that you downloaded"):
        photo_crops.prepare_photos(tmp_path, tmp_path)
    (tmp_path / "photos" / "train" / "holidays").mkdir(parents=True)
    with pytest.raises(DataError, match="holidays, which is none of the photos"):
        photo_crops.prepare_photos(tmp_path, None)
