"""Images of any depth and number of channels are read by one rule, from every kind of file."""

import io
import logging
import os

import numpy as np
import pytest
import tifffile
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from PIL import Image

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.datasets import ImageFolder, ImageList
from ssm_train.data.images import (
    UNREADABLE,
    check_whole,
    decode,
    decode_channels,
    find_images,
    read_image,
    size_in_file,
    to_area,
    to_square,
)
from ssm_train.data.loading import LoadImage
from ssm_train.data.pixels import ImageBytes, open_image, to_levels
from ssm_train.data.transforms import TestTransform, TrainTransform

to_tensor = TestTransform(9)
ALL_16 = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def smooth_values(height, width, channels):
    """Values that change slowly. Pillow rounds and clips them between its two passes."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / (4 + k) + k) + np.cos(columns / (5 + k)) for k in range(channels)]
    return (127.5 + 50 * np.dstack(waves)).astype(np.uint8)


def random_values(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def write(path, values):
    """Write values into a file of the kind that its ending says."""
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig" if values.ndim == 3 else None)
    else:
        Image.fromarray(values).save(path)
    return path


# --- Depth


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_sixteen_bits_keep_their_order_and_their_ends(tmp_path, suffix):
    path = write(tmp_path / f"x{suffix}", ALL_16)
    levels = open_image(path)[..., 0]
    np.testing.assert_allclose(levels, ALL_16 / 257.0, rtol=1e-6)
    assert np.array_equal(decode(path, "L"), ALL_16 >> 8)
    assert np.asarray(decode(path)).mean() == 127.5


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_point_goes_from_0_to_1(tmp_path, suffix, dtype):
    values = np.linspace(0, 1, 64 * 64, dtype=dtype).reshape(64, 64)
    path = write(tmp_path / f"x{suffix}", values)
    np.testing.assert_allclose(open_image(path)[..., 0], 255 * values, rtol=1e-5, atol=1e-5)
    assert np.asarray(decode(path, "L")).min() == 0
    assert np.asarray(decode(path, "L")).max() == 255
    assert abs(np.asarray(decode(path, "L")).mean() - 127.5) < 0.1


@pytest.mark.parametrize(
    "values", [np.float32([[0, 1.5]]), np.int16([[-3, 9]]), np.uint32([[0, 9]])], ids=lambda x: str(x.dtype)
)
def test_values_without_a_range_are_refused_with_their_own(tmp_path, values):
    path = write(tmp_path / "x.npy", values)
    with pytest.raises(UNREADABLE, match=f"of type {values.dtype}, go from {values.min():g} to {values.max():g}"):
        decode(path)
    with pytest.raises(DataError, match=rf"^cannot read the image {path}: its values.*value_range=\(black, white\)"):
        read_image(path)
    low, high = float(values.min()), float(values.max())
    assert np.array_equal(decode(path, "L", value_range=(low, high)), [[0, 255]])


def test_values_outside_of_a_given_range_become_its_ends():
    levels = to_levels(np.uint16([0, 1000, 2047, 4095, 60000]), (1000, 4095))
    np.testing.assert_allclose(levels, [0, 0, 255 * 1047 / 3095, 255, 255], rtol=1e-6)
    assert levels.dtype == np.float32


@pytest.mark.parametrize("wrong", [(1, 1), (5, 2), (0,), (0, float("nan")), "01", 7, (0, 1, 2), ("a", "b")], ids=repr)
def test_a_range_is_two_numbers(wrong):
    with pytest.raises(ConfigError, match="value_range is the values of black and white"):
        to_levels(np.zeros(3, np.uint8), wrong)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_are_finite(tmp_path, bad):
    path = write(tmp_path / "x.npy", np.float32([[0.5, bad]]))
    with pytest.raises(UNREADABLE, match="NaN or infinite"):
        decode(path)


# --- Channels


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 13])
@pytest.mark.parametrize("suffix", [".npy", ".tif", ".png"])
def test_every_number_of_channels_is_read(tmp_path, suffix, channels):
    if suffix == ".png" and channels > 4:
        pytest.skip("PNG has at most four channels")
    values = random_values(9, 7, channels)
    path = write(tmp_path / f"x{suffix}", values[..., 0] if channels == 1 else values)
    found = np.asarray(decode_channels(path, channels))
    if channels != 4:  # Pillow has no mode for two channels without opacity, and reads them as what they are
        assert np.array_equal(found.reshape(values.shape).round(), values)
    else:
        assert found.shape == values.shape
    assert read_image(path).mode == "RGB"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_tiffs_of_many_channels(tmp_path, planes, dtype):
    values = random_values(9, 7, 6)
    stored = (values / 255 * {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]).round(8).astype(dtype)
    written = np.moveaxis(stored, -1, 0) if planes == "separate" else stored
    tifffile.imwrite(tmp_path / "x.tif", written, photometric="minisblack", planarconfig=planes)
    np.testing.assert_allclose(decode_channels(tmp_path / "x.tif", 6), values, atol=1e-4)


def test_another_number_of_channels_is_named(tmp_path):
    path = write(tmp_path / "x.npy", random_values(9, 7, 6))
    with pytest.raises(UNREADABLE, match="it has 6 channels, and 4 are asked for"):
        decode_channels(path, 4)
    with pytest.raises(UNREADABLE, match="it has 6 channels, which are no colours"):
        decode(path)
    colours = write(tmp_path / "y.png", random_values(9, 7, 3))
    with pytest.raises(UNREADABLE, match="it has 3 channels, and 6 are asked for"):
        decode_channels(colours, 6)
    assert (decode_channels(colours, 4)[..., 3] == 255).all(), "what has no opacity is opaque"


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 4), ("RGB", 4), ("LA", 2)])
def test_channels_can_be_written_to(tmp_path, mode, channels):
    """Steps of a pipeline may do so, and torch warns of arrays that cannot be written to."""
    Image.new(mode, (5, 4)).save(tmp_path / "x.png")
    assert decode_channels(tmp_path / "x.png", channels).flags.writeable


@pytest.mark.parametrize("mode", ["P", "CMYK", "1", "LA"])
def test_all_of_pillows_modes_become_colours_and_grey(tmp_path, mode):
    image = Image.fromarray(random_values(9, 7, 3)).convert(mode)
    image.save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"))
    (path,) = find_images(tmp_path)
    expected = image.convert("L" if mode in ("1", "LA") else "RGB")
    assert np.array_equal(decode(path), expected.convert("RGB"))
    assert np.array_equal(decode(path, "L"), expected.convert("L"))


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4, 5), (0, 3), (3, 4, 0), (2, 2, 5000)], ids=str)
def test_arrays_of_other_shapes_are_refused(tmp_path, shape):
    with pytest.raises(UNREADABLE, match=r"it has the shape .*, and an image has"):
        open_image(write(tmp_path / "x.npy", np.zeros(shape, np.uint8)))


def test_arrays_of_objects_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(UNREADABLE):
        open_image(tmp_path / "x.npy")


def test_a_tiff_is_turned_upright(tmp_path):
    values = random_values(5, 7, 6)
    tifffile.imwrite(
        tmp_path / "x.tif", values, photometric="minisblack", planarconfig="contig", extratags=[(274, "H", 1, 6, True)]
    )
    assert np.array_equal(open_image(tmp_path / "x.tif"), np.rot90(values, -1))


# --- Scaling and transforms


def test_channels_are_scaled_alike():
    values = smooth_values(40, 30, 5)
    scaled, square = to_area(values, 64), to_square(values, 48)
    for channel in range(5):
        alone = np.dstack([values[..., channel]] * 2)
        np.testing.assert_allclose(to_area(alone, 64)[..., 0], scaled[..., channel], atol=1e-6)
        grey = Image.fromarray(values[..., channel])  # Pillow rounds to levels in between
        np.testing.assert_allclose(to_area(grey, 64), scaled[..., channel], atol=1.5 / 255)
        np.testing.assert_allclose(
            to_square(grey, 48),
            square[..., channel],
            atol=2.5 / 255,  # at the border, Pillow sees what was cropped
        )


@pytest.mark.parametrize("transform", [TestTransform, TrainTransform])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_transforms_take_any_number_of_channels(transform, dtype):
    mean, std = tuple(n / 10 for n in range(6)), tuple(1 + n / 10 for n in range(6))
    values = np.empty((40, 56, 6), dtype)
    values[:] = [0, 51, 102, 153, 204, 255]
    made = transform(32, mean=mean, std=std)(values)
    assert made.shape == (6, 32, 32)
    expected = [(level - m) / s for level, m, s in zip(np.linspace(0, 1, 6), mean, std, strict=True)]
    torch.testing.assert_close(made, torch.tensor(expected).float().view(6, 1, 1).expand(-1, 32, 32))


def test_the_test_transform_sees_what_pillow_would():
    values = smooth_values(70, 50, 3)
    settings = {"mean": (0.5,), "std": (0.5,)}
    grey = TestTransform(32, **settings)(Image.fromarray(values[..., 0]))
    many = TestTransform(32, mean=(0.5,) * 2, std=(0.5,) * 2)(values[..., :2])
    torch.testing.assert_close(many[:1], grey, atol=3 / 255, rtol=0)


@pytest.mark.parametrize("change", [{"auto_augment": "rand-m9"}, {"color_jitter": 0.4}])
def test_colours_are_not_changed_where_there_are_none(change):
    with pytest.raises(ConfigError, match="images of 4 channels have none"):
        TrainTransform(32, mean=(0.5,) * 4, std=(0.5,) * 4, **change)
    TrainTransform(32, mean=(0.5,) * 3, std=(0.5,) * 3, **change)


def test_our_transforms_are_found_in_the_scope_of_another_library(tmp_path):
    """A program may have run a detector of mmdet before, which leaves its scope."""
    path = tmp_path / "train" / "a" / "x.npy"
    path.parent.mkdir(parents=True)
    write(path, random_values(40, 40, 3))
    with DefaultScope.overwrite_default_scope("mmdet"):
        assert ImageFolder({"type": "TestTransform", "size": 32}, tmp_path)[0]["inputs"].shape == (3, 32, 32)


def test_an_image_with_other_channels_than_means_is_named(tmp_path):
    path = tmp_path / "train" / "a" / "x.npy"
    path.parent.mkdir(parents=True)
    write(path, random_values(40, 40, 6))
    data = ImageFolder({"type": "TestTransform", "size": 32}, tmp_path, channels=6)
    with pytest.raises(ConfigError, match=rf"^{path}: an image has 6 channels, and the mean and std .* 3 numbers"):
        data[0]
    fitting = {"type": "TestTransform", "size": 32, "mean": [0.5] * 6, "std": [0.25] * 6}
    assert ImageFolder(fitting, tmp_path, channels=6)[0]["inputs"].shape == (6, 32, 32)


@pytest.mark.parametrize(
    "wrong", [{"channels": 0}, {"channels": "3"}, {"mode": "RGBA"}, {"value_range": (1, 0)}], ids=str
)
def test_wrong_settings_of_a_folder(tmp_path, wrong):
    (tmp_path / "train" / "a").mkdir(parents=True)
    write(tmp_path / "train" / "a" / "x.png", random_values(9, 9, 3))
    with pytest.raises(ConfigError):
        ImageFolder(None, tmp_path, **wrong)


# --- The pipelines of detection and segmentation


def test_pipelines_read_as_all_others_do(tmp_path):
    colours = write(tmp_path / "x.png", random_values(9, 7, 3))
    found = LoadImage()({"img_path": str(colours), "img_id": 5})
    assert np.array_equal(found["img"], np.asarray(decode(colours))[..., ::-1]), "blue comes first, as in mmcv"
    assert (found["img_shape"], found["ori_shape"], found["img_id"]) == ((9, 7), (9, 7), 5)
    bands = write(tmp_path / "x.npy", random_values(9, 7, 6))
    assert np.array_equal(LoadImage(6)({"img_path": str(bands)})["img"], np.load(bands))
    assert LoadImage(1)({"img_path": str(colours)})["img"].shape == (9, 7)
    with pytest.raises(ConfigError, match="LoadImage's channels"):
        LoadImage(0)


# --- Which files are data


def test_hidden_folders_and_files_are_no_data(tmp_path):
    names = ("a/x.png", "b/y.PNG", "a/.ipynb_checkpoints/x.png", ".hidden/x.png", "a/._x.png", "__MACOSX/x.png")
    for path in (tmp_path / "train" / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(path)
    (tmp_path / "train" / "c").mkdir()
    (tmp_path / "train" / "c" / "photo.heic").touch()
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    data = ImageFolder(None, tmp_path)
    logger.removeHandler(handler)
    assert data.classes == ["a", "b", "c"]
    assert [data.name(i) for i in range(len(data))] == [
        str(tmp_path / "train" / name) for name in ("a/x.png", "b/y.PNG")
    ]
    assert "1 classes without images: c (1 .heic)" in said.getvalue()
    assert [path.name for path in find_images(tmp_path)] == ["x.png", "y.PNG"]


def test_links_are_followed_and_end(tmp_path):
    real = tmp_path / "elsewhere"
    real.mkdir()
    write(real / "x.png", random_values(9, 9, 3))
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "linked").symlink_to(real)
    (real / "back").symlink_to(tmp_path / "data")
    assert [path.name for path in find_images(tmp_path / "data")] == ["x.png"]


def test_what_a_folder_has_instead_of_images_is_named(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    for name in ("x.heic", "y.heic", "z.txt"):
        (tmp_path / "train" / "a" / name).touch()
    with pytest.raises(DataError, match=r"a has 2 \.heic, 1 \.txt"):
        ImageFolder(None, tmp_path)
    with pytest.raises(DataError, match=r"it has 2 \.heic, 1 \.txt"):
        find_images(tmp_path)


@pytest.mark.parametrize("dtype", ["u2", "f4", "f8"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_order_of_bytes_changes_no_value(tmp_path, dtype, channels):
    plain = random_values(6, 5, channels).squeeze().astype("u2") * 257
    plain = plain if dtype == "u2" else (plain / 65535).astype(dtype)
    turned = plain.astype(f">{dtype}")
    np.save(tmp_path / "x.npy", turned)
    planes = "contig" if channels == 2 else None
    tifffile.imwrite(tmp_path / "x.tif", turned, byteorder=">", photometric="minisblack", planarconfig=planes)
    expected = np.asarray(decode_channels(plain, channels))
    for source in (turned, tmp_path / "x.npy", tmp_path / "x.tif"):
        assert np.array_equal(np.asarray(decode_channels(source, channels)), expected)


@pytest.mark.parametrize("name", ["x.png", "x.npy", "x.tif"])
def test_a_pipe_is_never_opened(tmp_path, name):
    """A dataset takes the next image, and says which one could not be read."""
    (tmp_path / "train" / "a").mkdir(parents=True)
    os.mkfifo(tmp_path / "train" / "a" / name)
    write(tmp_path / "train" / "a" / "y.png", random_values(9, 9, 3))
    (tmp_path / "x.csv").write_text(f"image,labels\ntrain/a/{name},a\ntrain/a/y.png,a\n")
    for data in (ImageFolder(to_tensor, tmp_path), ImageList(to_tensor, tmp_path / "x.csv")):
        said = data[0]["data_samples"]["unreadable"]
        assert said.endswith(f"{name} (it is no file, but a pipe, a socket or a device)")
    with pytest.raises(OSError, match="a pipe, a socket or a device"):  # what detection and segmentation ask first
        check_whole(tmp_path / "train" / "a" / name)
    with pytest.raises(OSError, match="a pipe, a socket or a device"):
        size_in_file(tmp_path / "train" / "a" / name)


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (0, 0)])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16", "F"])
def test_an_image_without_pixels_is_refused_as_an_empty_array_is(size, mode):
    for channels in (1, 3, 4, 5):
        with pytest.raises(ValueError, match="it has the shape") as of_array:
            decode_channels(np.zeros(size[::-1], np.uint8), channels)
        with pytest.raises(ValueError, match="it has the shape") as of_image:
            decode_channels(Image.new(mode, size), channels)
        assert str(of_image.value) == str(of_array.value)


def test_pages_of_a_tiff(tmp_path):
    path, values = tmp_path / "x.tif", random_values(6, 5, 13)
    for count in (2, 3, 4, 13):
        pages = np.moveaxis(values[..., :count], -1, 0)
        tifffile.imwrite(path, pages, photometric="minisblack", metadata=None)
        found = np.asarray(decode_channels(path, count))
        assert np.array_equal(found, values[..., :count])
        assert np.array_equal(open_image(path), found)
        for other in {1, 2, 3, 4, 13} - {count}:
            said = f"it has {count} pages, .*: save one page alone, or read them by channels={count}$"
            with pytest.raises(ValueError, match=said):
                decode_channels(path, other)
    colours = [Image.fromarray(random_values(6, 5, 3)) for _ in range(3)]
    colours[0].save(path, save_all=True, append_images=colours[1:])
    with pytest.raises(ValueError, match=r"it has 3 pages, and is read as one image: save one page alone$"):
        decode(path)


def test_smaller_versions_are_no_pages(tmp_path):
    values = random_values(8, 8, 3)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(values, photometric="rgb")
        file.write(values[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(values, photometric="rgb", subfiletype=1)

    assert np.array_equal(np.asarray(decode(tmp_path / "x.tif")), values)


def test_a_page_that_cannot_be_read_does_not_count(tmp_path):
    values = random_values(8, 8, 3)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(values, photometric="rgb")
        file.write(random_values(8, 8, 13), photometric="minisblack", planarconfig="contig")
        file.write(values, photometric="rgb", subfiletype=1)
    assert np.array_equal(np.asarray(decode(tmp_path / "x.tif")), values)


@pytest.mark.filterwarnings("ignore:.*")  # Pillow's of tags
def test_damaged_tiffs_of_several_pages_are_unreadable_or_read():
    draw, file, outcomes = np.random.default_rng(0), io.BytesIO(), set()
    tifffile.imwrite(file, random_values(3, 6, 5), photometric="minisblack", metadata=None)
    for _ in range(1500):
        content = bytearray(file.getvalue())
        for place in draw.integers(len(content), size=4):
            content[place] = draw.integers(256)
        try:
            decode_channels(ImageBytes("x.tif", bytes(content)), 3)
            outcomes.add("read")
        except UNREADABLE:
            outcomes.add("unreadable")
    assert outcomes == {"read", "unreadable"}


def test_tiffs_of_many_samples_are_read_in_silence(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "x.tif", random_values(6, 5, 13), photometric="minisblack", planarconfig="contig")
    with caplog.at_level(logging.ERROR):
        assert decode_channels(tmp_path / "x.tif", 13).shape == (6, 5, 13)
    assert not caplog.records
