"""Images in WebDataset's shards: the samples are those of the package webdataset, and bad shards are named."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssm_core.errors import ConfigError, DataError
from ssm_train.data import shards as module
from ssm_train.data.datasets import WebDatasetImages
from ssm_train.data.pixels import ImageBytes, open_image
from ssm_train.data.shards import expand_shards, key_and_ending, list_shard


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A folder of its own for the lists of shards."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "ssm_shards"


def plain(image):
    return torch.from_numpy(np.array(image))


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (4, 6), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(path, files, format=tarfile.GNU_FORMAT):
    """Write a tar file of names and contents; a content may be a TarInfo without one."""
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in files:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def sample(key, label, value=0):
    return [(f"{key}.png", png(value)), (f"{key}.cls", str(label).encode())]


GOOD = [file for number in range(5) for file in sample(f"a/{number:03d}", number % 2, 10 * number)]


def values(data):
    return [(int(one["inputs"][0, 0, 0]), one["data_samples"]["label"]) for one in data]


def test_samples(tmp_path):
    write(tmp_path / "x-00.tar", GOOD)
    write(tmp_path / "x-01.tar", sample("b", 2, 99))
    data = WebDatasetImages(plain, str(tmp_path / "x-{00..01}.tar"))
    assert data.metainfo == {"classes": ["0", "1", "2"]}
    assert values(data) == [(0, 0), (10, 1), (20, 0), (30, 1), (40, 0), (99, 2)]
    assert data.name(1) == f"{tmp_path / 'x-00.tar'}/a/001.png"
    assert data[5]["inputs"].shape == (6, 4, 3)
    named = WebDatasetImages(plain, [str(tmp_path / "x-00.tar")], classes=["ant", "bee", "cat"], mode="L")
    assert named.metainfo["classes"] == ["ant", "bee", "cat"]
    assert named[0]["inputs"].shape == (6, 4)
    fold = WebDatasetImages(plain, str(tmp_path / "x-00.tar"), fold=dict(of=2, part="held_out"))
    rest = WebDatasetImages(plain, str(tmp_path / "x-00.tar"), fold=dict(of=2))
    assert sorted(values(fold) + values(rest)) == values(data)[:5]


NAMES = [
    "0001.jpg", "./0002.JPG", "a/b.c.d.png", "v1.0/0003.seg.PNG", "a.b/c", "noextension", "dir/.hidden.jpg", "._a.jpg",
    "__meta__", "__meta__/x.json", "dir/__x__.png", "x..png", "ä/ö.png", "trailing.", "__MACOSX/a.jpg", "a b/c d.jpg",
]  # fmt: skip


@pytest.mark.needs("webdataset")
def test_keys_are_those_of_webdataset(tmp_path):
    from webdataset.tariterators import base_plus_ext, tar_file_iterator

    path = write(tmp_path / "x.tar", [(name, b"") for name in NAMES])
    with open(path, "rb") as file:
        read = [one["fname"] for one in tar_file_iterator(file)]
    for name in NAMES:
        if "hidden" in name or "._" in name or "MACOSX" in name:  # files that programs leave, see ImageFolder
            assert key_and_ending(name) is None
            continue
        key, ending = base_plus_ext(name) if name in read else (None, None)
        assert key_and_ending(name) == (None if key is None else (key, ending.lower()))


@pytest.mark.needs("webdataset")
def test_samples_are_those_of_webdataset(tmp_path):
    import webdataset

    draw = np.random.default_rng(0)
    paths = [str(tmp_path / f"x-{number:03d}.tar") for number in range(3)]
    for path in paths:
        with webdataset.TarWriter(path) as writer:
            for number in range(7):
                image = draw.integers(0, 256, (5, 4, 3), np.uint8)
                row = {"label": ["ant", "bee"][number % 2], "n": number}
                name = f"{'long' * 60 if number == 3 else 'd'}/{number}"
                writer.write({"__key__": name, "png": image, "cls": number % 3, "json": row, "b.txt": row["label"]})
    pattern = str(tmp_path / "x-{000..002}.tar")
    stream = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("rgb8"))
    assert len(stream) == 21
    for label, expected in (
        ("cls", [one["cls"] for one in stream]),
        ("json", [int(one["json"]["label"] == "bee") for one in stream]),
        ("b.txt", [int(one["b.txt"] == "bee") for one in stream]),
    ):
        data = WebDatasetImages(plain, pattern, label=label)
        assert data.labels == expected
        assert all(np.array_equal(ours["inputs"], theirs["png"]) for ours, theirs in zip(data, stream, strict=True))
        keys = [f"{one['__url__']}/{one['__key__']}.png" for one in stream]
        assert [data.name(index) for index in range(21)] == keys


@pytest.mark.needs("braceexpand")
@pytest.mark.parametrize(
    "text", ["a", "a{0..2}", "a{08..11}b{x,y}", "{3..1}", "{000..2}/{a,b,}c", "{9..11}", "a{b}c", "{a..b}", "{1..}"]
)
def test_braces(text):
    from braceexpand import braceexpand

    if text == "{a..b}":
        assert expand_shards(text) == ["{a..b}"], "WebDataset's shards have numbers"
    else:
        assert expand_shards(text) == list(braceexpand(text))


def test_lists_of_shards():
    assert expand_shards("a{0..1}.tar::b.tar") == expand_shards(["a0.tar", "a1.tar", "b.tar"])
    for given, words in (
        ("", "'' is none"),
        ([], "needs at least one"),
        (["a.tar", "{a,b}.tar"], "a.tar is listed twice"),
        ("pipe:curl x", "are local files: download 'pipe:curl x' first"),
        ("https://x/a.tar", "are local files"),
        ("a{0..99999999}{0..99999999}.tar", "stands for more than"),
        ([3], "3 is none"),
    ):
        with pytest.raises(ConfigError, match=words):
            expand_shards(given)


def test_labels(tmp_path):
    def data(contents, label, **settings):
        files = [f for n, text in enumerate(contents) for f in ((f"{n}.png", png(n)), (f"{n}.{label}", text.encode()))]
        return WebDatasetImages(plain, write(tmp_path / "x.tar", files), label=label, **settings)

    assert data(["bee", "ant\n"], "txt").labels == [1, 0]
    assert data(["bee", "ant"], "txt", classes=["cat", "bee", "ant"]).labels == [1, 2]
    assert data(['{"label": 3}', '{"label": 1.0}'], "json").labels == [3, 1]
    assert data(['{"kind": "b"}', '{"kind": "a"}'], "json", field="kind").labels == [1, 0]
    assert data(['{"label": true}', '{"label": false}'], "json").metainfo["classes"] == ["false", "true"]
    several = data(['["b", "a"]', "[]", '["c"]'], "json", multi_label=True)
    assert several.labels == [[0, 1], [], [2]]
    assert several[0]["data_samples"]["label"].tolist() == [1, 1, 0]
    with pytest.raises(DataError, match="labels that are names, such as 'a', and labels that are numbers, such as 3"):
        data(["3", '"a"'], "json")
    with pytest.raises(ConfigError, match="and not in 'pkl'"):
        data([], "pkl")
    with pytest.raises(DataError, match=r"has a label that is none of the 1 classes \('bees' \(did you mean 'bee'"):
        data(["bees"], "txt", classes=["bee"])


FAULTS = {
    "has no file .cls": [("x.png", png(1))],
    "has no image": [("x.cls", b"1"), ("x.gif.gz", b"")],
    "has a file .cls that cannot be read": [("x.png", png(1)), ("x.cls", b"one")],
    "has a label outside of 0 to 65535": sample("x", 10**30),
    "has no label": sample("x", -1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_samples(fault, tmp_path, lines):
    path = write(tmp_path / "x.tar", [*GOOD[:4], *FAULTS[fault], *GOOD[4:]])
    assert [label for _, label in values(WebDatasetImages(plain, path))] == [0, 1, 0, 1, 0]
    [line] = lines
    assert line.startswith(f"left out 1 of 6 samples of {path}: each {fault}; the first is {path}/x")
    with pytest.raises(DataError, match=r"x(\.png)? has .*; unreadable='skip' leaves such samples out"):
        WebDatasetImages(plain, path, unreadable="raise")
    write(tmp_path / "x.tar", FAULTS[fault])
    with pytest.raises(DataError, match="1 of 1 samples cannot be used, which is more than half"):
        WebDatasetImages(plain, path)


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return (name, info)


def test_nothing_is_extracted_or_followed(tmp_path, lines):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(200))
    before = sorted(tmp_path.rglob("*"))
    hostile = [
        special("b.png", tarfile.SYMTYPE, str(secret)),
        special("c.png", tarfile.LNKTYPE, "a/000.png"),
        special("d.png", tarfile.FIFOTYPE),
        ("../e.png", png(1)),
        ("/f.png", png(1)),
        ("a/../../g.cls", b"0"),
        ("h\n\x1b[31m\udcff.txt", b""),
        *((f"{name}.cls", b"0") for name in "bcd"),
        ("a/000.png", png(77)),
    ]
    path = write(tmp_path / "x.tar", [*GOOD, *hostile])
    assert values(WebDatasetImages(plain, path)) == [(10 * n, n % 2) for n in range(5)]
    assert {p for p in tmp_path.rglob("*") if "torch" not in p.parts} == {*before, Path(path)}
    assert [line.split(";")[0].removeprefix("left out ") for line in lines] == [
        f"3 of 21 files of {path}: each is a link or a special file",
        f"3 of 21 files of {path}: each has a name that leads out of the shard",
        f"1 of 21 files of {path}: each has the name of an earlier one",
        f"4 of 9 samples of {path}: each has no image",
    ]
    assert all(line.isprintable() for line in lines)


def test_damaged_shards(tmp_path, lines):
    whole = [write(tmp_path / f"{n}.tar", GOOD) for n in range(2)]
    content = Path(whole[0]).read_bytes()
    path = tmp_path / "bad.tar"
    header = 512 * 2  # of one image and its content, which are less than 512 bytes
    for damage, words, left in (
        (content[: 4 * header + 530], "it ends within a/002.png", 2),
        (content[: 5 * header + 100], "it cannot be read from byte 5120 on", 2),
        (content[: 4 * header], "it has no mark of its end, so that it may be cut off", 2),
        (content[: 4 * header] + b"x" * 512 + content[4 * header + 512 :], "it cannot be read from byte 4", 2),
        (content + content, "it cannot be read from byte", 5),
        (content[:124] + b"\xff" * 12 + content[136:], None, 0),
    ):
        path.write_bytes(damage)
        if words is None:
            with pytest.raises(DataError, match="is no tar file"):
                WebDatasetImages(plain, [*whole, str(path)])
            continue
        data = WebDatasetImages(plain, [*whole, str(path)])
        assert len(data) == 10 + left
        line = next(line for line in lines[::-1] if "lost the end" in line)
        assert line.startswith(f"lost the end of 1 of 3 shards of {whole[0]} and 2 more: each is damaged; the first is")
        assert f"{path}: {words}" in line
        with pytest.raises(DataError, match=f"{path}: {words}.*; unreadable='skip'"):
            WebDatasetImages(plain, [*whole, str(path)], unreadable="raise")
        with pytest.raises(DataError, match="1 of 1 shards cannot be used, which is more than half"):
            WebDatasetImages(plain, str(path))


def test_headers_that_never_end(tmp_path):
    """A size below 0 makes tarfile go round, and a long name could fill the memory."""

    def negative(size):
        info = tarfile.TarInfo("n.png")
        block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        block[124:136] = b"\xff" * 4 + size.to_bytes(8, "big", signed=True)
        block[148:156] = b" " * 8
        block[148:156] = f"{sum(block):06o}".encode() + b"\0 "
        return bytes(block)

    first = Path(write(tmp_path / "a.tar", GOOD[:4])).read_bytes()[: 4 * 1024]
    for size in (-512, -1024, -4096):
        (tmp_path / "b.tar").write_bytes(first + negative(size) + bytes(1024))
        shard = list_shard(str(tmp_path / "b.tar"))
        assert len(shard.members) == 4
        assert shard.damage
    long = tarfile.TarInfo("x" * (module._LARGEST_HEADER + 1) + ".png")
    (tmp_path / "c.tar").write_bytes(first + long.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    shard = list_shard(str(tmp_path / "c.tar"))
    assert (len(shard.members), shard.damage) == (4, "a header is too large")


def test_no_shards(tmp_path):
    for name, content, words in (
        ("gone.tar", None, "there is no shard"),
        ("a.tar", b"", "is no tar file"),
        ("b.tar", b"x" * 4096, "is no tar file"),
        ("c.tar.gz", b"\x1f\x8b" + bytes(100), "is compressed by gzip"),
        ("d.tar", bytes(10240), "has no sample with an image and a label"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=words):
            WebDatasetImages(plain, str(tmp_path / name))
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(DataError, match="there is no shard"):
        WebDatasetImages(plain, str(tmp_path / "pipe.tar"))


def test_unreadable_images_are_replaced(tmp_path, monkeypatch):
    path = write(tmp_path / "x.tar", [*sample("a", 0, 5), ("b.png", png(9)[:40]), ("b.cls", b"1"), *sample("c", 1, 7)])
    data = WebDatasetImages(plain, path)
    assert values(data) == [(5, 0), (7, 1), (7, 1)]
    assert data[1]["data_samples"]["unreadable"].startswith(f"{path}/b.png (")
    with pytest.raises(DataError, match=f"cannot read the image {path}/b.png"):
        WebDatasetImages(plain, path, unreadable="raise")[1]
    monkeypatch.setattr(module, "LARGEST", 10)
    with pytest.raises(DataError, match=r"not one of 3 images can be read, the first being .*bytes, more than 10"):
        WebDatasetImages(plain, path)[0]


def test_lists_of_files_are_kept(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "x.tar", GOOD)
    before = list_shard(path)
    [kept] = cache.iterdir()
    monkeypatch.setattr(module, "_scanned", lambda *_: pytest.fail("the list is not used"))
    assert list_shard(path) == before
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for damage in (b"", b"[]", b'{"a": 1}', kept.read_bytes()[:-5], kept.read_bytes().replace(b"512", b"9999999")):
        kept.write_bytes(damage)
        assert list_shard(path) == before
    data = WebDatasetImages(plain, path)
    write(tmp_path / "x.tar", sample("z", 3, 1))
    with pytest.raises(DataError, match="has changed since it was listed"):
        data[0]
    assert values(WebDatasetImages(plain, path)) == [(1, 3)]
    kept.unlink()
    cache.rmdir()
    cache.write_text("a file in the place of the folder")
    assert values(WebDatasetImages(plain, path)) == [(1, 3)]


def test_images_in_memory_are_those_of_files(tmp_path):
    draw = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", draw.random((5, 4, 6), np.float32))
    Image.fromarray(draw.integers(0, 65536, (5, 4), np.uint16)).save(tmp_path / "b.png")
    import tifffile

    tifffile.imwrite(tmp_path / "c.tif", draw.integers(0, 65536, (5, 4, 6), np.uint16))
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(draw.integers(0, 256, (5, 4, 3), np.uint8)).save(tmp_path / "d.jpg", exif=exif)
    for path in sorted(tmp_path.glob("[abcd].*")):
        ours = np.asarray(open_image(ImageBytes(path.name, path.read_bytes())))
        assert np.array_equal(ours, np.asarray(open_image(path)))
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    for shape in ("(1000000000000000,)", "(9000000000,)"):
        text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        with pytest.raises(ValueError, match=r"fit into memory|EOF"):
            open_image(ImageBytes("x.npy", header + text.encode() + bytes(64)))
