"""Tests of tools/explore.py: its pictures, its errors, and its page in a headless Chromium."""

import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from command_line import error_of, load_tool, run
from PIL import Image

from quadtree_ssm import QuadMamba
from ssm_core.errors import ConfigError, DataError
from ssm_train.apis.explore import UPLOADS, Address, Explorer, open_models, served
from ssm_train.data.normalization import Normalization
from tree_ssm import MambaTreeV

SIZES = {"depths": (1, 1, 2, 1), "dims": (16, 16, 16, 16), "num_classes": 7}
CLASSES = [f"animal {i}" for i in range(7)]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Write a checkpoint of each family in the form that training gives it. The models are small and never trained."""
    folder, files = tmp_path_factory.mktemp("models"), {}
    for kind, name in ((MambaTreeV, "tree_ssm.MambaTreeV"), (QuadMamba, "quadtree_ssm.QuadMamba")):
        torch.manual_seed(0)
        meta = {
            "model": {"type": "ImageClassifier", "backbone": {"type": name, **SIZES}},
            "test_transform": {"type": "TestTransform", "size": 64},
            "dataset_meta": {"classes": CLASSES},
        }
        state = {f"backbone.{key}": value for key, value in kind(**SIZES).state_dict().items()}
        files[kind.__name__] = str(folder / f"{kind.__name__}.pth")
        torch.save({"state_dict": state, "meta": meta}, files[kind.__name__])
    return files


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Write a photo, and files that are not photos."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    cat = Image.fromarray(data.chelsea())
    cat.save(folder / "cat.png")
    (folder / "text.png").write_text("no picture")
    (folder / "cut.png").write_bytes((folder / "cat.png").read_bytes()[:9000])
    (folder / "large.png").write_bytes(np.random.RandomState(0).bytes(600_000))
    return folder


def explorer(checkpoints, **options):
    return Explorer(open_models(list(checkpoints.values())), max_megapixels=1, **options)


def test_pictures_follow_the_pixel(checkpoints, photos):
    pages = explorer(checkpoints)
    photo = pages.look(photos / "cat.png")
    assert photo.shown.shape == (365, 549, 3)
    assert [seen.image.shape for seen in photo.seen] == [(52, 78, 3)] * 2
    for seen in photo.seen:
        assert list(seen.classes) == CLASSES
        assert sum(seen.classes.values()) == pytest.approx(1)
    for draw in (pages.marked, pages.affinity, pages.quadtree):
        here, there, again = (np.asarray(draw(photo, pixel)) for pixel in ((20, 30), (300, 500), (20, 30)))
        assert np.array_equal(here, again)
        assert not np.array_equal(here, there)
    cross = np.asarray(pages.marked(photo, (300, 500))).astype(int) - np.round(photo.shown * 255).astype(int)
    rows, columns = np.nonzero(np.abs(cross).sum(-1))
    assert (abs(rows.mean() - 300) < 1, abs(columns.mean() - 500) < 1) == (True, True)


def test_every_pixel_of_the_photo_can_be_clicked(checkpoints, photos):
    """At all sizes, the corners of the photo are corners of every model's image."""
    pages = explorer(checkpoints, side=90)
    photo = pages.look(photos / "cat.png")
    last = tuple(side - 1 for side in photo.shown.shape[:2])
    for pixel in ((0, 0), last):
        assert None not in (pages.affinity(photo, pixel), pages.quadtree(photo, pixel))


def test_a_family_without_checkpoint_is_random_and_says_so(checkpoints, photos):
    models = open_models([checkpoints["QuadMamba"]])
    assert [opened.title for opened in models] == ["QuadMamba, QuadMamba.pth", "mambatree_tiny, random weights, seed 0"]
    assert [opened.has_head for opened in models] == [True, False]
    assert models[0].normalization == Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 64)


def test_files_that_are_no_photo(checkpoints, photos):
    pages = explorer(checkpoints)
    with pytest.raises(DataError, match=r"^cannot read the image text.png: it is no image$"):
        pages.look(photos / "text.png")
    with pytest.raises(DataError, match=r"^cannot read the image cut.png: .+$"):
        pages.look(photos / "cut.png")
    pages.max_megapixels = 0.1
    with pytest.raises(DataError, match=r"451 × 300 pixels: at most 0\.1 megapixels"):
        pages.look(photos / "cat.png")


def test_errors(checkpoints, tmp_path, capsys, monkeypatch):
    assert "there is no such file" in error_of(capsys, "explore", tmp_path / "none.pth")
    two = [checkpoints["QuadMamba"]] * 2
    assert "more than one QuadMamba" in error_of(capsys, "explore", *two)
    assert "is a ResNet: the page is for MambaTreeV and QuadMamba" in error_of(capsys, "explore", "resnet10t")
    for option in (("--side", "9"), ("--port", "0"), ("--max-upload", "much")):
        with pytest.raises(SystemExit):
            load_tool("explore").parse_arguments(list(option))
        assert option[1] in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    before = os.environ.get(UPLOADS)
    assert "run `pip install 'tree-ssm-train[explore]'`" in error_of(capsys, "explore", *checkpoints.values())
    assert os.environ.get(UPLOADS) == before


@pytest.fixture(scope="module")
def address(checkpoints):
    """Serve the page as the tool does, to this machine on a free port."""
    with served(explorer(checkpoints), Address(), max_upload="500kb") as page:
        yield page.url


def test_served_to_this_machine_alone(address, checkpoints):
    assert address.startswith("http://127.0.0.1:")
    port = int(address.rstrip("/").rpartition(":")[2])
    line = f"cannot listen on 127.0.0.1:{port}: "
    with pytest.raises(ConfigError, match=line), served(explorer(checkpoints), Address(port=port)):
        pass
    assert "Tree-SSM explorer" in urllib.request.urlopen(address, timeout=20).read().decode()


@pytest.mark.parametrize("path", ["", "config", "gradio_api/upload", "gradio_api/file=/etc/hostname"])
def test_a_page_under_another_name_gets_nothing(address, path):
    """A stranger's page could let its own name lead to this machine, and read the answers as its own."""
    method = "POST" if path.endswith("upload") else "GET"
    request = urllib.request.Request(address + path, headers={"Host": "evil.example:7860"}, method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)
    assert (refused.value.code, refused.value.read()) == (400, b"this page has another name")


@pytest.mark.parametrize("path", ["gradio_api/file=/etc/hostname", "gradio_api/file=../../../etc/hostname"])
def test_files_of_the_machine_are_not_served(address, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(address + path, timeout=20)
    assert refused.value.code in (403, 404)


def test_a_port_in_use_fails_at_once(address, checkpoints, capsys):
    port = address.rstrip("/").rpartition(":")[2]
    start = time.monotonic()
    line = error_of(capsys, "explore", *checkpoints.values(), "--port", port)
    assert line.startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
    assert time.monotonic() - start < 30


def serve(folder, sources):
    """Run the tool with a folder for temporary files. A shell may have made this process ignore SIGINT."""
    tempfile.tempdir = str(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run("explore", *sources))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_the_tool_serves_until_a_signal(number, status, checkpoints, tmp_path):
    """The tool removes its folder of uploads when it ends."""
    log = tmp_path / "log"
    tool = runs.start(serve, log, tmp_path, list(checkpoints.values()))
    try:
        while not log.exists() or "\n" not in log.read_text():
            tool.join(0.1)
            assert tool.is_alive(), (tmp_path / "log.err").read_text()
        words = log.read_text().split()
        assert [*words[:1], *words[2:]] == ["open", "in", "a", "browser;", "Ctrl-C", "ends", "it"]
        assert "Tree-SSM explorer" in urllib.request.urlopen(words[1], timeout=20).read().decode()
        assert list(tmp_path.glob("tree-ssm-explore-*"))
        os.kill(tool.pid, number)
        runs.finish(tool, log, status)
    finally:
        tool.kill()
    assert not list(tmp_path.glob("tree-ssm-explore-*"))


@pytest.fixture(scope="module")
def browser():
    """Start the system's Chromium, or the one that Playwright downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        found = next(filter(None, map(shutil.which, BROWSERS)), own if Path(own).exists() else None)
        if found is None:
            pytest.skip("there is no Chromium: install one, or run `playwright install chromium`")
        # The sandbox needs rights that containers withhold. It is not needed because the page is our own.
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def source_of(page, name):
    """Return the address of an image once the browser has drawn it."""
    image = page.locator(f"#{name} img")
    image.wait_for()
    return image.get_attribute("src")


def test_a_click_changes_the_pictures(address, browser, photos):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    problems, strangers = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: strangers.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
    page.goto(address)
    page.set_input_files("#file input[type=file]", str(photos / "cat.png"))
    names = ("photo", "affinity", "quadtree")
    before = {name: source_of(page, name) for name in names}
    assert "animal" in page.locator("#classes0").inner_text()

    box = page.locator("#photo img").bounding_box()
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.2 * box["height"])
    page.wait_for_function("old => document.querySelector('#quadtree img').src !== old", arg=before["quadtree"])
    after = {name: source_of(page, name) for name in names}
    assert all(before[name] != after[name] for name in names)
    words = page.locator("#said").inner_text().replace(",", "").split()
    row, column = (int(words[words.index(key) + 1]) for key in ("row", "column"))
    # The photo keeps its proportions and is shown in the middle of its box.
    assert (row, column) == pytest.approx((0.2 * 365, 0.25 * 549), abs=6)
    assert not problems
    assert not strangers
    page.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [("text.png", "Cannot read the image text.png"), ("large.png", "exceed the maximum allowed size")],
)
def test_a_bad_file_gets_a_sentence(address, browser, photos, name, words):
    page = browser.new_page()
    page.goto(address)
    page.set_input_files("#file input[type=file]", str(photos / name))
    page.get_by_text(words).first.wait_for()
    text = page.locator("body").inner_text()
    assert "Traceback" not in text
    assert page.locator("#affinity img").count() == 0
    page.close()
