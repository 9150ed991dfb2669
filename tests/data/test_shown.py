"""Which channels of an image a picture shows."""

import numpy as np
import pytest
import torch
from PIL import Image

from ssm_core.errors import ConfigError
from ssm_train.data import shown
from ssm_train.data.images import read_image
from ssm_train.data.normalization import Normalization, of_config, picture_of
from ssm_train.data.shown import check_bands, stretched, to_picture, to_shown

VALUES = np.random.default_rng(0).integers(0, 256, (5, 7, 13), np.uint8)


def test_chosen_channels(tmp_path):
    found = np.asarray(to_picture(VALUES, (12, 0, 3)))
    assert np.array_equal(found, VALUES[..., [12, 0, 3]])
    np.save(tmp_path / "a.npy", VALUES)
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.npy", bands=(12, 0, 3))), found)
    np.testing.assert_array_equal(to_shown(VALUES / np.float32(255), (12, 0, 3)) * 255, found)
    inputs = torch.from_numpy((VALUES / 255 - 0.5) / 0.25).permute(2, 0, 1)
    scale = Normalization((0.5,) * 13, (0.25,) * 13, 32)
    assert np.array_equal(picture_of(inputs, scale, (12, 0, 3)), found)
    assert np.array_equal(scale._replace(bands=(12, 0, 3)).pixels(inputs), found)


@pytest.mark.parametrize(("channels", "first"), [(1, [0]), (2, [0]), (3, [0, 1, 2]), (4, [0, 1, 2]), (6, [0, 1, 2])])
def test_the_rule_without_a_choice(channels, first):
    for bands in (None, (9, 8, 7)):  # an image that has not the chosen ones
        found = np.asarray(to_picture(VALUES[..., :channels], bands))
        assert np.array_equal(found.reshape(5, 7, -1), VALUES[..., first])


def test_files_of_colours(tmp_path):
    """Colours in another order, and colours with opacity, of which a picture shows none without a choice."""
    Image.fromarray(VALUES[..., :4]).save(tmp_path / "a.png")
    Image.fromarray(VALUES[..., :3]).save(tmp_path / "b.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png", bands=(3, 2, 1))), VALUES[..., [3, 2, 1]])
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), VALUES[..., :3])
    assert np.array_equal(np.asarray(read_image(tmp_path / "b.png", bands=(2, 1, 0))), VALUES[..., [2, 1, 0]])
    assert np.array_equal(np.asarray(read_image(tmp_path / "b.png", bands=(3, 2, 1))), VALUES[..., :3])


def test_it_is_said_once_that_three_are_shown(lines):
    shown._say_that_three_are_shown.cache_clear()
    for _ in range(2):
        to_picture(VALUES, (0, 5, 4))
    assert lines == []
    for channels in (4, 5, 13):
        to_picture(VALUES[..., :channels])
    assert [line for line in lines if "show the first three: visualizer.bands=R,G,B in the config" in line] == lines
    assert len(lines) == 1


def test_unknown_values_are_stretched():
    values = np.array([[[-3.0], [1.0]], [[np.nan], [5.0]]])
    assert stretched(values)[..., 0].tolist() == [[0, 127.5], [95.625, 255]]
    assert stretched(np.full((2, 2, 1), 7)).tolist() == np.zeros((2, 2, 1)).tolist()
    inputs = torch.linspace(-2, 3, 60).reshape(5, 3, 4)
    expected = np.floor((inputs.permute(1, 2, 0).numpy() + 2) / 5 * 256).clip(0, 255)
    for unfit in (None, Normalization((0.5,) * 3, (0.5,) * 3, 32)):
        np.testing.assert_allclose(picture_of(inputs, unfit, (4, 2, 0)), expected[..., [4, 2, 0]], atol=1)


@pytest.mark.parametrize("bands", [(0, 1), (0, 1, 2, 3), (0, 1, 6), (-1, 0, 1), (0.0, 1, 2), "012", 3, (True, 0, 1)])
def test_what_is_refused(bands):
    with pytest.raises(ConfigError, match=r"visualizer.bands is three channels from 0 to 5, which pictures show"):
        check_bands(bands, 6)
    assert check_bands([5, 0, 0], 6) == (5, 0, 0)
    assert check_bands(None, 6) is None


def test_configs_choose_them_by_the_visualizer():
    transform = {"mean": [0.5] * 6, "std": [0.5] * 6}
    cfg = {"model": {"backbone": {"in_chans": 6}}, "test_dataloader": {"dataset": {"transform": transform}}}
    assert of_config(cfg).bands is None
    assert of_config({**cfg, "visualizer": {"bands": [4, 2, 1]}}).bands == (4, 2, 1)
    with pytest.raises(ConfigError, match="from 0 to 5"):
        of_config({**cfg, "visualizer": {"bands": [6, 2, 1]}})
