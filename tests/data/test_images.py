"""Images are read upright and in eight bits, and training reads them as inference does."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from command_line import CONFIGS
from PIL import Image

from ssm_core.errors import DataError
from ssm_train.data.datasets import ImageFolder
from ssm_train.data.images import UNREADABLE, check_whole, decode, find_images, read_image, reason
from ssm_train.runtime.config import load_config
from ssm_train.tasks import image_task_of

ORIENTATION = 274  # the tag's number in EXIF
# The operation that turns the stored pixels upright, by the tag's value.
UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


def random_pixels(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def rgb_of(path):
    return np.asarray(read_image(path))


def write_turned(path, pixels, orientation):
    """Write an image whose file states how the camera was held."""
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    image.save(path, exif=exif)
    return path


# --- Orientation


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_images_are_turned_upright(tmp_path, orientation):
    pixels = random_pixels(5, 7, 3)
    path = write_turned(tmp_path / "x.png", pixels, orientation)
    assert np.array_equal(rgb_of(path), UPRIGHT[orientation](pixels))
    grey = write_turned(tmp_path / "grey.png", pixels[..., 0], orientation)
    assert np.array_equal(decode(grey, "L"), UPRIGHT[orientation](pixels[..., 0]))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("name", ["quadmamba/quadmamba-nano_digits.py", "mambatree/mambatree-tiny_image-folder.py"])
def test_training_and_inference_read_the_same_image(tmp_path, name, orientation, suffix):
    cfg = load_config(CONFIGS / name)
    task = image_task_of(cfg)
    path = tmp_path / "train" / "a" / f"x{suffix}"
    path.parent.mkdir(parents=True)
    write_turned(path, random_pixels(40, 56, 3), orientation)
    data = ImageFolder(task.transform, tmp_path, mode="L" if task.channels == 1 else "RGB")
    trained_on, inferred = data[0]["inputs"], task.sample(path, "x")["inputs"]
    assert trained_on.shape[0] == task.channels
    assert torch.equal(trained_on, inferred)
    assert torch.equal(trained_on, task.transform(Image.fromarray(rgb_of(path)).convert(data.mode)))


# --- Depth and mode


def test_modes_of_files(tmp_path):
    colours = random_pixels(6, 4, 3)
    grey = colours[..., 0]
    alpha = np.dstack([colours, grey])
    for name, pixels, expected in (
        ("grey", grey, np.dstack([grey] * 3)),
        ("colours", colours, colours),
        ("alpha", alpha, colours),
        ("black-and-white", grey > 99, np.dstack([(grey > 99) * np.uint8(255)] * 3)),
    ):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        assert np.array_equal(rgb_of(tmp_path / f"{name}.png"), expected), name
        assert decode(tmp_path / f"{name}.png", "L").mode == "L"
    assert np.array_equal(decode(tmp_path / "grey.png", "L"), grey)
    few = Image.fromarray(colours).quantize(8)
    few.save(tmp_path / "palette.png")
    assert np.array_equal(rgb_of(tmp_path / "palette.png"), np.asarray(few.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_become_the_upper_eight(tmp_path, suffix):
    """OpenCV reads the upper eight bits, and detection and segmentation read images with OpenCV."""
    pixels = random_pixels(9, 8, dtype=np.uint16)
    path = tmp_path / f"x{suffix}"
    Image.fromarray(pixels).save(path)
    expected = (pixels >> 8).astype(np.uint8)
    assert len(np.unique(expected)) > 40
    assert np.array_equal(decode(path, "L"), expected)
    assert np.array_equal(rgb_of(path), np.dstack([expected] * 3))
    assert np.array_equal(cv2.imread(str(path)), rgb_of(path))


# --- Faults


def test_a_truncated_image(tmp_path):
    for suffix in (".jpg", ".png"):
        path = tmp_path / f"x{suffix}"
        Image.fromarray(random_pixels(60, 60, 3)).save(path)
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(UNREADABLE, match="truncated"):
            decode(path)
        with pytest.raises(DataError, match=rf"^cannot read the image {path}: .*truncated"):
            read_image(path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"], ids=repr)
def test_what_is_no_image(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^cannot read the image the third: it is no image$"):
        read_image(path, title="the third")


def test_a_missing_image(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the image \S+no\.png: No such file or directory$"):
        read_image(tmp_path / "no.png")
    with pytest.raises(DataError, match=r"cannot read the image \S+: Is a directory$"):
        read_image(tmp_path)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_header_alone(path, width, height):
    """Write a PNG that states a size but holds no pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b""))


def test_too_large_an_image_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "x.png"
    write_header_alone(path, 4000, 3000)
    with pytest.raises(DataError, match=r"^the image x\.png has 4000 × 3000 pixels: at most 10 megapixels are taken$"):
        read_image(path, max_megapixels=10)
    with pytest.raises(DataError, match="cannot read the image"):
        read_image(path, max_megapixels=12)


def test_an_absurd_size_is_one_sentence(tmp_path):
    path = tmp_path / "x.png"
    write_header_alone(path, 100_000, 100_000)
    with pytest.raises(DataError, match=r"cannot read the image .*10000000000 pixels") as error:
        read_image(path)
    assert "\n" not in str(error.value)


def test_the_reason_is_one_line_without_the_path():
    assert reason(FileNotFoundError(2, "No such file or directory", "/a/b.png")) == "No such file or directory"
    assert reason(SyntaxError("broken\n  chunk")) == "broken chunk"
    assert reason(AssertionError()) == "AssertionError"


def test_a_whole_file_is_told_from_a_cut_off_one(tmp_path):
    path = tmp_path / "x.jpg"
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        check_whole(path)
    path.touch()
    with pytest.raises(OSError, match="the file is empty"):
        check_whole(path)
    Image.fromarray(random_pixels(64, 64, 3)).save(path)
    content = path.read_bytes()
    path.write_bytes(content + b"trailer")
    assert check_whole(path) is None, "what follows a JPEG does no harm"
    path.write_bytes(content[:-40])
    with pytest.raises(OSError, match="truncated"):
        check_whole(path)


def test_finding_images(tmp_path):
    for name in ("b.png", "a/c.JPG", "a/notes.txt", "a/d.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in find_images(tmp_path)] == ["a/c.JPG", "a/d.webp", "b.png"]
    assert find_images(tmp_path, (".png",)) == [tmp_path / "b.png"]
    assert find_images(tmp_path / "a" / "notes.txt") == [tmp_path / "a" / "notes.txt"], "a file that is named is taken"
    for place in (tmp_path / "none", tmp_path / "a"):
        with pytest.raises(DataError, match=rf"there is no image {place}, nor a folder of that name with images"):
            find_images(place, (".png",))
