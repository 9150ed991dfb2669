"""Tests every subcommand of tools/analysis/visualize.py in both formats, and its errors when it cannot draw."""

import json
import re
import shlex
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from command_line import ROOT, error_of, load_tool, run
from matplotlib.figure import Figure
from PIL import Image

from quadtree_ssm import QuadMamba
from ssm_core.errors import ConfigError
from ssm_train.apis.visualize import write_figure
from tree_ssm import MambaTreeV

SIZES = {"depths": (1, 2, 1, 1), "dims": (8, 8, 8, 8), "num_classes": 3}
KINDS = {"tree": (MambaTreeV, "tree_ssm.MambaTreeV"), "quad": (QuadMamba, "quadtree_ssm.QuadMamba")}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write checkpoints of small models that were never trained, photos, and the curves of two runs."""
    from skimage import data

    folder = tmp_path_factory.mktemp("files")
    for name, (kind, path) in KINDS.items():
        torch.manual_seed(0)
        meta = {"model": {"type": path, **SIZES}}
        torch.save({"state_dict": kind(**SIZES).state_dict(), "meta": meta}, folder / f"{name}.pth")
    (folder / "photos").mkdir()
    for name in ("chelsea", "coffee"):
        Image.fromarray(getattr(data, name)()).save(folder / "photos" / f"{name}.png")
    for run_ in ("one", "two"):
        (folder / run_).mkdir()
        points = {"train": [{"iter": 1, "epoch": 1, "lr": 0.1, "loss": 2.0}], "val": []}
        (folder / run_ / "curves.json").write_text(json.dumps(points))
    return folder


def test_the_gallery_can_be_drawn_again():
    """The tool accepts the gallery's commands. They draw the pictures that the page shows, and the files are small."""
    page = ROOT / "docs" / "gallery.md"
    text = page.read_text().replace("\\\n", " ")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("tree-ssm analyse visualize ")]
    tool = load_tool("analysis/visualize")
    drawn = {str(tool.parse_arguments(words[3:]).out) for words in commands}
    shown = {f"docs/{path}" for path in re.findall(r"!\[[^]]+\]\((images/gallery_[^)]+)\)", text)}
    assert len(drawn) == 9
    assert shown == drawn | {"docs/images/gallery_explorer.webp", "docs/images/gallery_explorer_phone.webp"}
    assert all((ROOT / path).stat().st_size < 800_000 for path in shown)


def arguments(files, what):
    photo = ("--side", 48)
    return {
        "tree": ("tree", files / "tree.pth", files / "photos/chelsea.png", *photo),
        "affinity": (
            "affinity", files / "tree.pth", files / "photos/chelsea.png", *photo,
            "--pixel", 100, 200, "--pixel", 299, 450, "--blocks", "2.2", "1.1",
        ),
        "quadtree": ("quadtree", files / "quad.pth", files / "photos/chelsea.png", *photo),
        "receptive-field": (
            "receptive-field", files / "quad.pth", "resnet10t", "--images", files / "photos", "--side", 64,
        ),
        "curves": ("curves", files / "one", files / "two", "--metrics", "loss", "lr", "--x", "epoch", "--smooth", 3),
    }[what]  # fmt: skip


def draw(files, what, capsys, *outs):
    blocks = ("--blocks", "1.1", "2.2") if what in ("tree", "quadtree") else ()
    for out, *more in outs:
        assert run("analysis/visualize", *arguments(files, what), *blocks, "--out", out, *more) == 0
        assert f"drawn: {out}" in capsys.readouterr().out


ALL = pytest.mark.parametrize("what", ["tree", "affinity", "quadtree", "receptive-field", "curves"])


@ALL
def test_pictures_of_points(files, tmp_path, capsys, what):
    """A PNG has the pixels and says the dots an inch, so that a text program gives it the width on paper."""
    column, page, web = (tmp_path / name for name in ("column.png", "page.png", "web.webp"))
    draw(files, what, capsys, (column, "--width", "column"), (page, "--dpi", 50), (web, "--dpi", 50))
    for path, inches, dpi in ((column, 3.25, 300), (page, 6.875, 50), (web, 6.875, 50)):
        with Image.open(path) as picture:
            assert picture.format == path.suffix[1:].upper()
            assert picture.width == pytest.approx(inches * dpi, abs=1)
            assert "dpi" not in picture.info or picture.info["dpi"] == pytest.approx((dpi, dpi), abs=0.1)
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 10


@ALL
def test_pictures_of_lines(files, tmp_path, capsys, what):
    """The same picture is the same file. Letters of a PDF are TrueType in it, and its page has the width."""
    outs = [tmp_path / name for name in ("a.svg", "b.svg", "a.pdf", "b.pdf")]
    draw(files, what, capsys, *((out, "--dpi", 50, "--width", 5.5) for out in outs))
    contents = [out.read_bytes() for out in outs]
    assert contents[0] == contents[1]
    assert contents[2] == contents[3]
    root = ElementTree.fromstring(contents[0])
    assert root.tag.endswith("svg")
    assert root.get("width") == f"{5.5 * 72:g}pt"
    kinds = set(re.findall(rb"/Subtype /(Type3|TrueType|CIDFontType2|Type1)", contents[2]))
    assert kinds <= {b"TrueType", b"CIDFontType2"}
    assert b"/FontFile2" in contents[2], "the fonts are in the file"
    (box,) = set(re.findall(rb"/MediaBox \[ ?([\d. ]+)\]", contents[2]))
    assert float(box.split()[2]) == pytest.approx(5.5 * 72, abs=0.1)


def figure_of(files, what, *more):
    tool = load_tool("analysis/visualize")
    args = tool.parse_arguments([str(a) for a in (*arguments(files, what), *more, "--out", "unused.png")])
    return args.draw(args)


def test_affinity_of_the_asked_for_blocks_and_pixels(files):
    figure = figure_of(files, "affinity")
    titles = [axes.get_title().partition("\n")[0] for axes in figure.axes[:5]]
    assert titles == ["image", "stage 2", "", "stage 1", ""]
    assert [figure.axes[i].get_title() for i in (1, 3)] == ["stage 2\nblock 2", "stage 1\nblock 1"]
    assert figure.get_suptitle() == "MambaTreeV, tree.pth"
    # The photo of 300 × 451 pixels is drawn with 39 × 59. In both, a pixel's centre is half a pixel from its edge.
    marks = [axes.lines[0].get_xydata()[0].tolist() for axes in (figure.axes[0], figure.axes[5])]
    assert marks == [
        pytest.approx([(column + 0.5) * 59 / 451 - 0.5, (row + 0.5) * 39 / 300 - 0.5])
        for row, column in ((100, 200), (299, 450))
    ]


@pytest.mark.parametrize("what", ["tree", "affinity", "quadtree", "receptive-field", "curves"])
def test_the_title_can_be_chosen(files, what):
    assert figure_of(files, what, "--title", "Figure 1").get_suptitle() == "Figure 1"
    assert figure_of(files, what, "--title", "").get_suptitle() == ""


def test_contrast_and_columns(files):
    """An exponent of 0.5 shows 0.25 in the middle of the colours. A tree alone in its row is as wide as the sheet."""
    norm = figure_of(files, "affinity", "--contrast", 0.5).axes[1].images[-1].norm
    assert float(norm(0.25)) == 0.5
    first = figure_of(files, "tree", "--columns", 1, "--width", 4).axes[0]
    assert first.get_position().width > 0.8


def test_all_blocks_by_default(files):
    titles = [axes.get_title() for axes in figure_of(files, "quadtree").axes]
    assert titles[3::3][:3] == [f"stage {s}, block {b}" for s, b in ((1, 1), (2, 1), (2, 2))]
    assert len(figure_of(files, "tree").axes) == 1 + 5 + 1, "the image, five blocks and the colour bar"


def test_receptive_fields_are_averaged_over_the_folder(files, capsys):
    *both, bar = figure_of(files, "receptive-field").axes
    assert bar.get_ylabel()
    assert both[0].images[0].get_clim() == both[1].images[0].get_clim(), "the models have one scale"
    titles = [axes.get_title().rsplit("\n", 1) for axes in both]
    assert [title for title, _ in titles] == ["QuadMamba\nquad.pth", "resnet10t\nrandom weights, seed 0"]
    assert all(re.fullmatch(r"half within \d+\.\d% of the area", half) for _, half in titles)
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == ["QuadMamba, quad.pth", "resnet10t, random weights, seed 0"]
    assert all("50% within" in line for line in printed)
    one = figure_of(files, "receptive-field", "--count", 1).axes
    assert (both[0].images[0].get_array() != one[0].images[0].get_array()).any()


@pytest.mark.parametrize(
    ("what", "more", "words"),
    [
        ("tree", ("--blocks", "1.2"), "no block 1.2 with one of MambaTree: there are 1.1, 2.1, 2.2, 3.1, 4.1"),
        ("affinity", ("--pixel", 300, 0), "--pixel 300 0 is outside the image of 300 rows and 451 columns"),
        ("receptive-field", ("--stage", 9), "QuadMamba gives no map of stage 9 for images of 64×64"),
        ("curves", ("--metrics", "mIoU"), "no run has mIoU: they have loss, lr"),
    ],
)
def test_what_cannot_be_drawn(files, tmp_path, capsys, what, more, words):
    assert words in error_of(
        capsys, "analysis/visualize", *arguments(files, what), *more, "--out", tmp_path / "a.png"
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_model_of_the_other_family(files, tmp_path, capsys):
    photo, out = files / "photos/chelsea.png", ("--out", tmp_path / "a.png", "--side", 48)
    line = error_of(capsys, "analysis/visualize", "tree", files / "quad.pth", photo, *out)
    assert "quad.pth has no block of MambaTree" in line
    line = error_of(capsys, "analysis/visualize", "quadtree", files / "tree.pth", photo, *out)
    assert "tree.pth has no block of QuadMamba's quadtree" in line


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--out", "a.jpg"), "ends in none of .pdf, .png, .svg, .webp"),
        (("--side", "20"), "no whole number from 32 to 8192"),
        (("--blocks", "0.1"), "no STAGE.BLOCK"),
        (("--dpi", "-3"), "no whole number from 10 to 2400"),
    ],
)
def test_arguments_that_make_no_sense(capsys, option, words):
    with pytest.raises(SystemExit):
        run("analysis/visualize", "tree", "model", "image", "--out", "a.png", *option)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "inches"), [("png", 657), ("webp", 165)])
def test_a_picture_with_too_many_dots(tmp_path, kind, inches):
    with pytest.raises(ConfigError, match=rf"would have {100 * inches}x10 dots, .*give a smaller --width"):
        write_figure(Figure((inches, 0.1)), tmp_path / f"a.{kind}", 100)
    assert not list(tmp_path.iterdir())
    write_figure(Figure((163, 0.1)), tmp_path / f"a.{kind}", 100)
    with Image.open(tmp_path / f"a.{kind}") as picture:
        assert picture.size == (16300, 10)
