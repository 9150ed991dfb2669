"""Tests every subcommand of tools/analysis/visualize.py in both formats, and its errors when it cannot draw."""

import json
import re
import shlex
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from command_line import ROOT, error_of, load_tool, run
from PIL import Image

from quadtree_ssm import QuadMamba
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
    assert len(drawn) == 7
    assert shown == drawn | {"docs/images/gallery_explorer.png"}
    assert all((ROOT / path).stat().st_size < 250_000 for path in shown)


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


@pytest.mark.parametrize("what", ["tree", "affinity", "quadtree", "receptive-field", "curves"])
def test_png_and_svg(files, tmp_path, capsys, what):
    blocks = ("--blocks", "1.1", "2.2") if what in ("tree", "quadtree") else ()
    for name in ("a.png", "a.svg", "b.svg"):
        assert run("analysis/visualize", *arguments(files, what), *blocks, "--out", tmp_path / name, "--dpi", 50) == 0
        assert f"drawn: {tmp_path / name}" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 10
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def figure_of(files, what, *more):
    tool = load_tool("analysis/visualize")
    args = tool.parse_arguments([str(a) for a in (*arguments(files, what), *more, "--out", "unused.png")])
    return args.draw(args)


def test_affinity_of_the_asked_for_blocks_and_pixels(files):
    figure = figure_of(files, "affinity")
    titles = [axes.get_title().partition("\n")[0] for axes in figure.axes[:5]]
    assert titles == ["image", *["stage 2, block 2"] * 2, *["stage 1, block 1"] * 2]
    assert figure.get_suptitle() == "MambaTreeV, tree.pth"
    # The photo of 300 × 451 pixels is drawn with 39 × 59. In both, a pixel's centre is half a pixel from its edge.
    marks = [axes.lines[0].get_xydata()[0].tolist() for axes in (figure.axes[0], figure.axes[5])]
    assert marks == [
        pytest.approx([(column + 0.5) * 59 / 451 - 0.5, (row + 0.5) * 39 / 300 - 0.5])
        for row, column in ((100, 200), (299, 450))
    ]


def test_all_blocks_by_default(files):
    titles = [axes.get_title() for axes in figure_of(files, "quadtree").axes]
    assert titles[1:4] == [f"stage {s}, block {b}\nscores" for s, b in ((1, 1), (2, 1), (2, 2))]
    assert len(figure_of(files, "tree").axes) == 6


def test_receptive_fields_are_averaged_over_the_folder(files, capsys):
    both = figure_of(files, "receptive-field").axes
    assert [axes.get_title() for axes in both] == ["QuadMamba\nquad.pth", "resnet10t\nrandom weights, seed 0"]
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
        (("--out", "a.jpg"), "ends neither in .png nor in .svg"),
        (("--side", "20"), "no whole number from 32 to 8192"),
        (("--blocks", "0.1"), "no STAGE.BLOCK"),
        (("--dpi", "-3"), "no whole number from 10 to 2400"),
    ],
)
def test_arguments_that_make_no_sense(capsys, option, words):
    with pytest.raises(SystemExit):
        run("analysis/visualize", "tree", "model", "image", "--out", "a.png", *option)
    assert words in capsys.readouterr().err
