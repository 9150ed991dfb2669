"""Tests of the explorer's page in a headless Chromium: what its pictures contain, and where they stand."""

import io
import re

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from small_explorer import examples, explorer, served_page

from ssm_core.layers import record_scans
from ssm_core.visualization import style
from ssm_train.data.images import read_image, to_area

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The example photos as they are shown, by their names."""
    paths = examples(tmp_path_factory.mktemp("examples"))
    return {name: np.round(to_area(read_image(path), 640) * 255) for name, path in paths.items()}


@pytest.fixture(scope="module")
def address(checkpoints):
    with served_page(checkpoints) as url:
        yield url


class Visit:
    """The open page, and what is seen on it."""

    def __init__(self, browser, address, width=1440):
        self.page = browser.new_page(viewport={"width": width, "height": 1000})
        self.page.set_default_timeout(60_000)
        self.problems, self.strangers = [], []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url, address))
        self.page.goto(address)
        for name in ("all_trees", "all_affinities"):  # the last pictures that are drawn
            self.page.locator(f"#{name} img").last.wait_for(state="attached")

    def _note(self, url, address):
        if not url.startswith((address, "data:", "blob:")):
            self.strangers.append(url)

    def do(self, action, *changed):
        """Do something, and wait until some pictures have changed."""
        before = {name: self.source(name) for name in changed}
        action()
        for name, source in before.items():
            self.page.wait_for_function(
                "([name, old]) => { const found = document.querySelector(`#${name} img`); "
                "return found && found.src !== old }",
                arg=[name, source],
            )

    def source(self, name):
        """The address of a picture."""
        return self.page.locator(f"#{name} img").first.get_attribute("src")

    def picture(self, name):
        """The pixels of a picture, as the browser gets them."""
        content = self.page.request.get(self.source(name)).body()
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)

    def click(self, name, row, column, later=("all_affinities",)):
        """Click a picture at shares of its height and width, and wait until the last pictures are drawn."""
        self.page.locator(f"#{name} img").scroll_into_view_if_needed()
        box = self.page.locator(f"#{name} img").bounding_box()
        x, y = box["x"] + column * box["width"], box["y"] + row * box["height"]
        self.do(lambda: self.page.mouse.click(x, y), "photo", *later)

    def choose(self, name, text):
        """Choose an entry of a list."""
        self.page.locator(f"#{name} input").click()
        self.page.get_by_role("option", name=text).click()

    def open_quadtrees(self):
        """Turn to the pictures of QuadMamba."""
        self.page.get_by_role("tab", name="QuadMamba").click()
        self.page.locator("#all_quadtrees img").last.wait_for()

    def text(self, name):
        return self.page.locator(f"#{name}").inner_text()


@pytest.fixture
def visit(browser, address):
    visits = []

    def opened(width=1440):
        visits.append(Visit(browser, address, width))
        return visits[-1]

    yield opened
    for one in visits:
        assert not one.problems
        assert not one.strangers
        one.page.close()


def cross_of(picture, photo):
    """The middle of what is drawn over a photo."""
    rows, columns = np.nonzero(abs(picture - photo).max(-1) > 2)
    assert len(rows) > 20
    return rows.mean(), columns.mean()


def test_it_opens_with_a_photo_and_all_pictures(visit, shown):
    here = visit()
    assert here.page.locator("#photos img").count() == len(shown)
    photo = here.picture("photo")
    assert np.median(abs(photo - shown["chelsea"])) == 0
    assert cross_of(photo, shown["chelsea"]) == pytest.approx((522 / 2, 785 / 2), abs=2)
    for name in ("tree", "tree_affinity", "raster", "raster_affinity"):
        assert here.picture(name).shape == photo.shape
    assert [here.page.locator(f"#{name} img").count() for name in ("all_trees", "all_affinities")] == [5, 5]
    here.open_quadtrees()
    for name in ("depth0", "depth1", "depth2", "scores", "order"):
        assert here.picture(name).shape == photo.shape
    assert here.page.locator("#all_quadtrees img").count() == 2
    assert "Trained on crops of 15 photos" in here.text("models")
    assert "This photo is “chelsea”" in here.text("models")


@pytest.mark.parametrize("name", ["photo", "tree", "raster_affinity"])
def test_the_cross_is_where_any_picture_was_clicked(visit, shown, name):
    here = visit()
    here.click(name, 0.2, 0.7)
    found = cross_of(here.picture("photo"), shown["chelsea"])
    assert found == pytest.approx((0.2 * 522, 0.7 * 785), abs=3)
    words = here.text("said").replace(",", "").split()
    assert [int(words[words.index(key) + 1]) for key in ("Row", "column")] == pytest.approx(found, abs=2)


def test_the_tree_on_the_page_is_that_of_the_network(visit, checkpoints, tmp_path):
    """Edges of the network's own spanning tree are coloured on the page. Other neighbours are joined by grey."""
    here = visit()
    here.choose("mambatreev_block", "stage 1, block 1")
    here.page.wait_for_function("document.querySelector('#tree_words').innerText.includes('stage 1, block 1')")
    here.click("photo", 0.9, 0.9)
    opened = explorer(checkpoints).models[0]
    image = to_area(read_image(examples(tmp_path)["chelsea"]), opened.normalization.side)
    with record_scans(opened.network) as scans, torch.no_grad():
        opened.network(opened.normalization.inputs(image))
    grown = scans["stages.0.blocks.0.mixer.scan"]
    assert f"{grown.height} × {grown.width} tokens" in here.text("tree_words")
    picture, parent = here.picture("tree"), grown.tree.parent[0].tolist()
    coloured = np.ptp(picture, axis=2) > 20
    rows = (np.arange(grown.height) + 0.5) * len(picture) / grown.height
    columns = (np.arange(grown.width) + 0.5) * len(picture[0]) / grown.width
    joined = {frozenset(edge) for edge in enumerate(parent)}
    wrong = checked = 0
    for row, column in np.ndindex(grown.height - 3, grown.width - 3):  # the cross is in the last rows and columns
        for down, right in ((0, 1), (1, 0)):
            edge = frozenset((row * grown.width + column, (row + down) * grown.width + column + right))
            y, x = (rows[row] + rows[row + down]) / 2, (columns[column] + columns[column + right]) / 2
            near = coloured[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2]
            wrong += bool(near.any()) != (edge in joined)
            checked += 1
    assert checked > 500
    assert wrong == 0


def test_the_colour_bar_is_that_of_the_pictures(visit):
    """Brightest at 1 and darkest at 0; the labels follow the contrast, and so do the pictures."""
    here = visit()
    box = here.page.locator("#bar .colours")
    box.scroll_into_view_if_needed()
    seen = np.asarray(Image.open(io.BytesIO(box.screenshot())).convert("RGB")).astype(int)
    row, scale = seen[len(seen) // 2], matplotlib.colormaps[style.HEAT]
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        expected = np.array(scale(share)[:3]) * 255
        assert abs(row[round(share * (len(row) - 1))] - expected).max() < 8
    before, frame = here.picture("tree_affinity"), box.bounding_box()

    def labels():
        ticks = here.page.locator("#bar .ticks span").all()
        middles = [tick.bounding_box() for tick in ticks[1:-1]]
        places = [(b["x"] + b["width"] / 2 - frame["x"]) / frame["width"] for b in middles]
        return dict(zip((float(tick.inner_text()) for tick in ticks[1:-1]), places, strict=True))

    assert labels() == {value: pytest.approx(value, abs=0.01) for value in (0.1, 0.25, 0.5, 0.75)}
    slider = here.page.locator("#contrast input[type=range]")
    slider.scroll_into_view_if_needed()
    track = slider.bounding_box()
    here.do(
        lambda: here.page.mouse.click(track["x"] + track["width"] - 2, track["y"] + track["height"] / 2),
        "tree_affinity",
    )
    assert labels() == {value: pytest.approx(value**0.1, abs=0.01) for value in (0.001, 0.01, 0.1, 0.25)}
    after = here.picture("tree_affinity")
    assert (after.mean((0, 1)) > before.mean((0, 1))).all(), "weak affinities are brighter"


def test_quadrants_are_those_of_the_network(visit, checkpoints, tmp_path):
    here = visit()
    here.open_quadtrees()
    opened = explorer(checkpoints).models[3]
    image = to_area(read_image(examples(tmp_path)["chelsea"]), opened.normalization.side)
    with record_scans(opened.network) as scans, torch.no_grad():
        opened.network(opened.normalization.inputs(image))
    choice = int(scans["stages.0.blocks.0.mixer.scan"].choice[0])
    for quadrant in (choice, 3 - choice):
        here.click("depth1", 0.125 + 0.5 * (quadrant // 2), 0.125 + 0.5 * (quadrant % 2), ("all_quadtrees",))
        for depth, side in ((0, 1.0), (1, 0.5), (2, 0.25 if quadrant == choice else 0.5)):
            picture = here.picture(f"depth{depth}")
            yellow = picture[..., :2].min(-1) - picture[..., 2] > 60
            assert yellow.mean() == pytest.approx(side**2, abs=0.03)
            rows, columns = np.nonzero(yellow)
            assert rows.min() / len(picture) == pytest.approx(0 if depth == 0 else 0.5 * (quadrant // 2), abs=0.03)
            assert columns.min() / len(picture[0]) == pytest.approx(0 if depth == 0 else 0.5 * (quadrant % 2), abs=0.03)


def test_a_photo_that_no_weights_know(visit, shown):
    here = visit()
    here.do(lambda: here.page.locator("#photos button").last.click(), "photo", "tree")
    assert np.median(abs(here.picture("photo") - shown["motorcycle"])) == 0
    assert "This photo is none of the 15. Any class would be wrong, so none is shown." in here.text("models")
    cards = here.page.locator("#models .model")
    assert cards.count() == 2
    assert [cards.nth(i).locator(".classes li").count() for i in range(2)] == [0, 5]
    assert "whatever a photo shows" in cards.nth(1).inner_text()
    assert "<b>seventh</b>" in cards.nth(1).locator("details").text_content()


def test_two_checkpoints_side_by_side(visit):
    here = visit()
    assert not here.page.locator("#other_tree").is_visible()
    here.choose("mambatreev_other", "second.pth")
    here.page.locator("#other_tree img").wait_for()
    boxes = [here.page.locator(f"#{name} img").bounding_box() for name in ("tree", "other_tree", "raster")]
    assert [box["y"] for box in boxes] == [pytest.approx(boxes[0]["y"], abs=2)] * 3
    assert boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]
    assert "second.pth" in here.text("other_tree_words")
    assert (here.picture("tree") != here.picture("other_tree")).any()
    # The second model in place of the first one gives the picture that it gave beside it.
    beside = here.picture("other_tree")
    here.choose("mambatreev_model", "second.pth")
    here.page.wait_for_function("document.querySelector('#tree_words').innerText.includes('second.pth')")
    assert np.array_equal(here.picture("tree"), beside)


def test_all_blocks_and_the_one_that_is_chosen_among_them(visit):
    here = visit()
    captions = here.page.locator("#all_trees .caption-label").all_inner_texts()
    assert [text.partition(":")[0] for text in captions] == [
        "stage 1, block 1", "stage 2, block 1", "stage 3, block 1", "stage 3, block 2", "stage 4, block 1",
    ]  # fmt: skip
    assert "stage 2, block 1" in here.text("tree_words")
    here.do(lambda: here.page.locator("#all_trees button").nth(3).click(), "tree")
    assert "stage 3, block 2" in here.text("tree_words")
    assert here.page.locator("#mambatreev_block input").input_value() == "stage 3, block 2"


def test_photos_in_more_pixels_have_more_tokens(visit):
    here = visit()
    tokens = re.search(r"(\d+) × (\d+) tokens", here.text("tree_words")).groups()
    here.do(lambda: here.page.get_by_text("224 × 224").click(), "tree")
    more = re.search(r"(\d+) × (\d+) tokens", here.text("tree_words")).groups()
    assert int(more[0]) * int(more[1]) > 4 * int(tokens[0]) * int(tokens[1])


@pytest.mark.parametrize("width", [1440, 390])
def test_everything_has_its_place(visit, width):
    """On a wide screen the tree stands beside the rows, on a narrow one above them."""
    here = visit(width)
    assert here.page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = {
        name: here.page.locator(f"#{name}").bounding_box() for name in ("photo", "tree", "raster", "models", "bar")
    }
    for box in boxes.values():
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width
    if width > 1000:
        assert boxes["tree"]["y"] == pytest.approx(boxes["raster"]["y"], abs=2)
        assert boxes["tree"]["width"] > 400
        assert boxes["photo"]["x"] + boxes["photo"]["width"] < boxes["tree"]["x"]
        assert boxes["tree"]["y"] + boxes["tree"]["height"] < 1000, "the tree is seen without scrolling"
    else:
        heights = [boxes[name]["y"] for name in ("photo", "tree", "raster", "bar", "models")]
        assert heights == sorted(heights)
        assert min(boxes[name]["width"] for name in ("photo", "tree", "raster")) > 320
    for name in ("tree", "raster"):
        image = here.page.locator(f"#{name} img").bounding_box()
        assert image["width"] / image["height"] == pytest.approx(785 / 522, rel=0.01)


def test_an_uploaded_photo(visit, photos):
    here = visit()
    here.do(lambda: here.page.locator("#photos button").last.click(), "photo", "all_affinities")
    here.do(lambda: here.page.set_input_files("#file input[type=file]", str(photos / "cat.png")), "photo", "tree")
    assert here.picture("photo").shape == (522, 785, 3)
    assert "This photo is “chelsea”" in here.text("models"), "its pixels say so, not its name"


@pytest.mark.parametrize(
    ("name", "words"),
    [("text.png", "Cannot read the image text.png"), ("large.png", "exceed the maximum allowed size")],
)
def test_a_bad_file_gets_a_sentence(visit, photos, name, words):
    here = visit()
    here.page.set_input_files("#file input[type=file]", str(photos / name))
    here.page.get_by_text(words).first.wait_for()
    assert "Traceback" not in here.page.locator("body").inner_text()
    if name == "text.png":
        here.page.wait_for_function("!document.querySelector('#tree img')")
