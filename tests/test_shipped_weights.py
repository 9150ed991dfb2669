"""The weights that come with the packages, on held-out images; and the script that makes them.

``held_out`` has the first 300 images of Fashion-MNIST's test split (Zalando, MIT licence).
"""

import functools
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ship_weights
import timm
import torch
import yaml
from command_line import CONFIGS, ROOT, error_of, run
from PIL import Image
from small_tasks import TASKS

from ssm_core.errors import ConfigError, DataError
from ssm_core.shipped import FOLDER, digits_of, read_shipped
from ssm_train.apis import Predictor
from ssm_train.apis.explore import open_models
from ssm_train.apis.open_model import open_model
from ssm_train.apis.shipped_weights import shipped_weights, shipped_with
from ssm_train.apis.train import train
from ssm_train.data.datasets.fashion_mnist import CLASSES, FILES
from ssm_train.data.datasets.idx import read_idx
from ssm_train.data.prepare import photo_crops
from ssm_train.data.prepare.composite import Composer
from ssm_train.data.prepare.photos import PHOTOS, load_photo
from ssm_train.runtime.config import load_config, run_config
from ssm_train.tasks import task_of

HELD_OUT = Path(__file__).parent / "held_out" / "fashion-mnist"
ROWS = shipped_weights()
CLASSIFIERS = [row for row in ROWS if row.timm_cfg is not None]
SEGMENTORS = [row for row in ROWS if row.timm_cfg is None]
pytestmark = [pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")]


@pytest.fixture(scope="module")
def held_out():
    """The images, and their labels."""
    return tuple(read_idx(HELD_OUT / name, dimensions=d) for name, d in zip(FILES["test"], (3, 1), strict=True))


@pytest.fixture(scope="module")
def held_out_of(held_out, tmp_path_factory):
    """By the name of a classifier: images that it was not trained on, their labels, and the names of the classes."""

    def found(row):
        if "photos" not in row.name:
            return [*held_out[0]], held_out[1], list(CLASSES)
        folder = tmp_path_factory.mktemp("photos")
        photo_crops.prepare_photos(folder, None, train_count=15, val_count=90, processes=1)
        files = sorted((folder / "photos" / "val").glob("*/*.jpg"))
        classes = list(photo_crops.CLASSES)
        labels = np.array([classes.index(file.parent.name) for file in files])
        return [np.asarray(Image.open(file)) for file in files], labels, classes

    return functools.lru_cache(lambda name: found(next(row for row in ROWS if row.name == name)))


def test_what_the_pages_promise_is_there():
    assert {row.name for row in ROWS} == {
        "quadmamba_nano.fmnist", "mambatree_nano.fmnist", "quadmamba_nano.photos", "mambatree_nano.photos",
        "upernet_quadmamba-nano_composite-256x256",
    }  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_of_the_table_is_whole(row):
    assert row.path.stem == f"{row.name}-{digits_of(row.path)}"
    assert row.path.stat().st_size <= ship_weights.MOST
    assert row.figures
    assert shipped_with(load_config(row.config)) == row
    assert "(val)" in ship_weights.log_of(ROOT, row.config).read_text()


def test_the_model_zoo_has_the_same_figures():
    measured = yaml.safe_load((CONFIGS / "results.yml").read_text())["Models"]
    for row in ROWS:
        assert [*measured[Path(row.config).name]["measured"].values()] == [*row.figures.values()]


def test_the_page_has_the_table():
    text = (ROOT / "docs" / "weights.md").read_text()
    assert text == ship_weights.page(text, ROWS)


@pytest.mark.parametrize("row", CLASSIFIERS, ids=lambda row: row.name)
def test_classifiers_on_held_out_images(row, held_out_of):
    """timm's own transform gives the probabilities of this project's, and an accuracy like that of the whole test."""
    images, labels, classes = held_out_of(row.name)
    pictures = [Image.fromarray(image) for image in images]
    model = timm.create_model(row.name, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    with torch.no_grad():
        scores = model(torch.stack([transform(picture) for picture in pictures])).softmax(1).numpy()
        if model.in_chans == 1:  # it takes colours as well
            few = (
                model(torch.stack([transform(picture.convert("RGB")) for picture in pictures[:20]])).softmax(1).numpy()
            )
            np.testing.assert_allclose(few, scores[:20], atol=1e-5)
    predict = Predictor(row.config, device="cpu", batch_size=100)
    assert predict.checkpoint == row.path
    assert predict.classes == list(model.pretrained_cfg["label_names"]) == classes
    np.testing.assert_allclose(scores, [found["scores"] for found in predict(images)], atol=1e-3)
    accuracy, share = (scores.argmax(1) == labels).mean(), row.figures["top1"] / 100
    assert abs(accuracy - share) < 4 * math.sqrt(share * (1 - share) / len(labels))


def test_the_code_of_the_page_runs(held_out, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(held_out[0][1]).save("garment.png")
    Image.fromarray(held_out[0][2]).convert("RGB").resize((96, 64)).save("photo.jpg")
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "weights.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "weights.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith(f"{CLASSES[held_out[1][1]]}\n")
    assert "(64, 96)" in printed


@pytest.mark.recent
@pytest.mark.needs("transformers")
@pytest.mark.parametrize("row", CLASSIFIERS, ids=lambda row: row.name)
def test_classifiers_in_transformers(row, held_out_of, tmp_path):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = timm.create_model(row.name, pretrained=True).eval()
    model.save_pretrained(tmp_path)
    wrapped = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    images, _, classes = held_out_of(row.name)
    pictures = [Image.fromarray(image) for image in images[:40]]
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    with torch.no_grad():
        found = wrapped(**AutoImageProcessor.from_pretrained(tmp_path)(pictures)).logits
        torch.testing.assert_close(
            found, model(torch.stack([transform(picture) for picture in pictures])), atol=1e-4, rtol=0
        )
    assert list(wrapped.config.id2label.values()) == classes


@pytest.mark.parametrize("row", SEGMENTORS, ids=lambda row: row.name)
def test_segmentors_on_held_out_scenes(row, held_out, tmp_path, capsys):
    """The scenes are composited of held-out garments and held-out photos, as those of the validation set are."""
    photos = [load_photo(name) for name in PHOTOS["val"]]
    composer = Composer(*held_out, photos, size=256, seed=1, stream=1)
    scenes = [composer.scene(number) for number in range(10)]
    predict = Predictor(row.config, device="cpu")
    assert predict.classes == ["background", *CLASSES]
    found = np.stack([prediction["labels"] for prediction in predict([scene.image for scene in scenes])])
    counts = np.bincount(11 * np.stack([scene.labels for scene in scenes]).ravel() + found.ravel(), minlength=121)
    counts = counts.reshape(11, 11)
    shares = counts.diagonal() / (counts.sum(0) + counts.sum(1) - counts.diagonal())
    assert 100 * shares.mean() > row.figures["mIoU"] - 12  # of 10 scenes rather than 500
    # The command says whose weights it takes.
    Image.fromarray(scenes[0].image).save(tmp_path / "scene.png")
    assert run("infer", row.config, tmp_path / "scene.png", "--out", tmp_path / "out", "--device", "cpu") == 0
    assert f"weights that come with the package: {row.path.name}\n" in capsys.readouterr().out
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "scene_labels.png")), found[0])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_config_alone_opens_with_its_weights(row, capsys):
    opened = open_model(row.config)
    assert opened.title == f"{Path(row.config).name}, {row.path.name} of the package"
    assert opened.trained
    assert opened.title in [one.title for one in open_models([row.config])]
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so that the command ends before it serves a page
        assert run("explore", row.config, "--port", taken.getsockname()[1]) == 1
    assert opened.title in capsys.readouterr().out.splitlines()
    if row.timm_cfg is not None:
        named = open_model(row.name, pretrained=True)
        scale = opened.normalization
        image = torch.rand(1, scale.channels, scale.side, scale.side)
        assert torch.equal(named.network(image), opened.network(image))
        assert (named.normalization, list(named.classes)) == (opened.normalization, list(opened.classes))


def test_they_are_tested_without_a_checkpoint(held_out, tmp_path, capsys):
    config, loader = "quadmamba/quadmamba-nano_fmnist", "test_dataloader"
    options = [f"{loader}.dataset.root={HELD_OUT}", f"{loader}.num_workers=0", f"{loader}.persistent_workers=False"]
    assert run("test", config, "--work-dir", tmp_path, "--cfg-options", *options) == 0
    found = Predictor(config)([np.repeat(image[..., None], 3, -1) for image in held_out[0]])
    right = np.mean([one["label"] == label for one, label in zip(found, held_out[1], strict=True)])
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"top1 {100 * right:.2f}, ")


def test_a_config_without_weights(capsys, tmp_path):
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    arguments = ("quadmamba/quadmamba-nano_digits", tmp_path / "a.png", "--out", tmp_path / "out")
    assert "there are no weights to predict with: name a checkpoint" in error_of(capsys, "infer", *arguments)
    assert shipped_with(load_config(CONFIGS / "quadmamba" / "quadmamba-nano_digits.py")) is None


def test_words_of_infer_between_its_options():
    from ssm_train.commands.infer import parse_arguments

    for words in (["c.py", "w.pth", "a.png", "--out", "o"], ["c.py", "w.pth", "--out", "o", "a.png"]):
        args = parse_arguments(words)
        assert (args.config, args.checkpoint, str(args.images)) == ("c.py", "w.pth", "a.png")
    for words in (["c.py", "a.png", "--out", "o"], ["c.py", "--out", "o", "a.png"], ["--out", "o", "c.py", "a.png"]):
        args = parse_arguments(words)
        assert (args.config, args.checkpoint, str(args.images)) == ("c.py", None, "a.png")


def test_wheel_and_source_distribution_have_the_weights(tmp_path):
    """Of stand-ins in a copy of the packages, whether this version comes with weights or not."""
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for package in ("ssm_core", *ship_weights.PACKAGES):
        (tmp_path / package / FOLDER).mkdir(parents=True)
        shutil.copy(ROOT / package / "__init__.py", tmp_path / package)
        for name in ("index.json", "net-01234567.safetensors"):
            (tmp_path / package / FOLDER / name).touch()
    (tmp_path / "csrc").mkdir()
    command = [sys.executable, "setup.py", "-q", "egg_info", "build_py", "--build-lib", "built"]
    environment = {**os.environ, "NO_EXTENSION": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sources = next(tmp_path.glob("*.egg-info/SOURCES.txt")).read_text().splitlines()
    for package in ship_weights.PACKAGES:
        for name in ("index.json", "net-01234567.safetensors"):
            assert (tmp_path / "built" / package / FOLDER / name).is_file()
            assert f"{package}/{FOLDER}/{name}" in sources


LOG = "2026/11/29 11:31:29 - mmengine - INFO - Iter(val) [1/1]    val/mIoU: 7.3600\n"


class Trained:
    """A work folder, and a repository that the script may write into. The classifier was trained, if only for a moment.

    Training a segmentor takes longer, so that its weights are random and its log has a line.
    """

    def __init__(self, task, folder):
        self.task = task
        self.small = TASKS[task](folder / "data")
        run_folder = folder / "run"
        self.checkpoint = run_folder / self.small.checkpoint
        if task == "classification":
            train(run_config(self.small.config, self.small.options, str(run_folder), "none"))
        else:
            (run_folder / "20261129_113000").mkdir(parents=True)
            (run_folder / "20261129_113000" / "20261129_113000.log").write_text(f"System: 2 cores\n{LOG}")
            model = task_of(load_config(self.small.config, self.small.options)).build()
            meta = {"dataset_meta": {"classes": ("background", "nucleus", "boundary")}}
            torch.save({"state_dict": model.state_dict(), "meta": meta}, self.checkpoint)
        self.root = folder / "repository"
        (self.root / "docs" / "logs").mkdir(parents=True)
        self.page = self.root / "docs" / "weights.md"
        self.page.write_text(f"# Page\n\n{ship_weights.BEGIN}\n{ship_weights.END}\n\nMore.\n")
        for package in ship_weights.PACKAGES:
            (self.root / package).mkdir()

    def ship(self, checkpoint=None):
        return ship_weights.ship(str(self.small.config), checkpoint or self.checkpoint, self.small.options, self.root)


@pytest.fixture(scope="module", params=["classification", "segmentation"])
def trained(request, tmp_path_factory):
    return Trained(request.param, tmp_path_factory.mktemp(request.param))


def test_a_checkpoint_becomes_weights_that_ship(trained):
    row = trained.ship()
    classifies = trained.task == "classification"
    assert row.path.parent == trained.root / ("quadtree_ssm" if classifies else "ssm_train") / FOLDER
    assert row.checked() == row.path
    assert row.config == f"quadmamba/{trained.small.config.stem}"
    assert list(row.figures) == ["top1" if classifies else "mIoU"]
    assert row.name == ("quadmamba_tiny.image-folder" if classifies else trained.small.config.stem)
    assert (row.timm_cfg is None) != classifies
    found = Predictor(load_config(trained.small.config, trained.small.options), row.path, "cpu")(trained.small.images)
    assert len(found) == (4 if classifies else 2)
    log = ship_weights.log_of(trained.root, row.config).read_text()
    assert "(val)" in log
    assert str(trained.root.parent) not in log
    text = trained.page.read_text()
    assert f"| `{row.name}` | [{row.config}](../configs/{row.config}.py) |" in text
    assert text.endswith(f"{ship_weights.END}\n\nMore.\n")

    # A file that was published is taken as it is, wherever it lies.
    elsewhere = Path(shutil.copy(row.path, trained.checkpoint.parent / "published.safetensors"))
    assert trained.ship(elsewhere) == row

    # Other weights of the same config take the place of these.
    content = torch.load(trained.checkpoint, weights_only=True)
    content["state_dict"] = {
        name: value / 2 if value.is_floating_point() else value for name, value in content["state_dict"].items()
    }
    other = trained.checkpoint.with_name("other.pth")
    torch.save(content, other)
    again = trained.ship(other)
    assert again.path != row.path
    assert [path.name for path in sorted(row.path.parent.iterdir())] == sorted(["index.json", again.path.name])
    assert [kept.path for kept in read_shipped(row.path.parent)] == [again.path]
    assert row.path.name not in trained.page.read_text()


def test_what_does_not_ship(trained, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"has no log of a training: name a checkpoint in the work folder"):
        trained.ship(tmp_path / "net.pth")
    (tmp_path / "mine.py").write_text(f"_base_ = {str(trained.small.config)!r}\n")
    with pytest.raises(ConfigError, match="does not come with the package"):
        ship_weights.ship(str(tmp_path / "mine.py"), trained.checkpoint, trained.small.options, trained.root)
    monkeypatch.setattr(ship_weights, "MOST", 1000)
    before = sorted(trained.root.rglob("*"))
    with pytest.raises(ConfigError, match=r"take more than 0\.001 MB, even in float16$"):
        trained.ship()
    assert sorted(trained.root.rglob("*")) == before


GOOD = {"name": "m.d", "path": "m.d-00000000.safetensors", "config": "a/b", "figures": {"top1": 1.0}, "timm_cfg": None}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps([GOOD])[:40], "Unterminated string"),
        ("", "Expecting value"),
        ("null", "no list"),
        ("[null]", "a row has not the entries"),
        (json.dumps([{**GOOD, "more": 1}]), "a row has not the entries"),
        (json.dumps([{key: GOOD[key] for key in GOOD if key != "config"}]), "a row has not the entries"),
        (json.dumps([{**GOOD, "name": 7}]), "is no text"),
        (json.dumps([{**GOOD, "path": "../../m.d-00000000.safetensors"}]), "is no name of a file"),
        (json.dumps([{**GOOD, "path": "/m.d-00000000.safetensors"}]), "is no name of a file"),
        (json.dumps([{**GOOD, "figures": {"top1": "94"}}]), "are no numbers"),
        (json.dumps([{**GOOD, "timm_cfg": {"input_size": []}}]), "is no list of channels"),
        ("[" * 100_000, "recursion"),
        (b"\xff\xfe[]", "codec"),
    ],
)
def test_a_damaged_table_is_told_of_and_stops_nothing(text, reason, tmp_path):
    (tmp_path / "index.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.warns(UserWarning, match=f"index.json is damaged, .*{reason}"):
        assert read_shipped(tmp_path) == ()


def test_a_sound_table_is_read(tmp_path):
    (tmp_path / "index.json").write_text(json.dumps([GOOD]))
    (row,) = read_shipped(tmp_path)
    assert row.path == tmp_path / GOOD["path"]
