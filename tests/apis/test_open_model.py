"""Tests of opening the models that a command line names, and of the scaling of their images."""

import numpy as np
import pytest
import torch
from command_line import CONFIGS
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from PIL import Image

import tree_ssm  # noqa: F401
from ssm_core.errors import CheckpointError, ConfigError, DataError
from ssm_train.apis.open_model import open_model
from ssm_train.data.images import read_image, to_area, to_square
from ssm_train.data.normalization import Normalization
from ssm_train.runtime.config import load_config

DIGITS = CONFIGS / "mambatree" / "mambatree-nano_digits.py"
NUCLEI = CONFIGS / "quadmamba" / "upernet_quadmamba-nano_nuclei-128x128.py"
BACKBONE = {"type": "quadtree_ssm.QuadMamba", "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8], "num_classes": 3}
TRANSFORM = {"type": "TestTransform", "size": 48, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


@pytest.fixture
def classifier():
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope("ssm_train"):
        return MODELS.build({"type": "ImageClassifier", "backbone": BACKBONE}).eval()


def saved(path, network, **meta):
    torch.save({"state_dict": network.state_dict(), "meta": meta}, path)
    return str(path)


def test_a_checkpoint_alone(classifier, tmp_path):
    meta = {"model": {"type": "ImageClassifier", "backbone": BACKBONE}, "dataset_meta": {"classes": ["a", "b", "c"]}}
    opened = open_model(saved(tmp_path / "epoch_1.pth", classifier, **meta, test_transform=TRANSFORM))
    assert opened.normalization == Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 48)
    assert (opened.title, opened.classes) == ("QuadMamba, epoch_1.pth", ["a", "b", "c"])
    assert opened.has_head
    images = torch.rand(1, 3, 48, 48)
    assert torch.equal(opened.network(images), classifier(images))
    file = saved(tmp_path / "old.pth", classifier, **meta)
    with pytest.raises(CheckpointError, match=f"{file} does not say how its images were scaled: give its config, as"):
        open_model(file)


def test_a_converted_checkpoint(classifier, tmp_path):
    """tools/convert_checkpoint.py writes a bare backbone that was trained with timm's scaling."""
    opened = open_model(saved(tmp_path / "converted.pth", classifier.backbone, model=BACKBONE))
    assert opened.normalization == Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224)
    assert opened.classes is None


def test_a_config_and_its_checkpoint(tmp_path):
    cfg = load_config(DIGITS)
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope("ssm_train"):
        model = MODELS.build(cfg.model).eval()
        transform = TRANSFORMS.build(cfg.test_dataloader.dataset.transform)
    opened = open_model(f"{DIGITS}={saved(tmp_path / 'a.pth', model)}")
    assert opened.title == "mambatree-nano_digits, a.pth"
    assert opened.normalization.channels == 1
    # The image is scaled as in the config's own pipeline.
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (32, 32), dtype=np.uint8))
    inputs = opened.normalization.inputs(to_area(image, 32))
    torch.testing.assert_close(inputs[0], transform(image))
    assert torch.equal(opened.network(inputs), model(inputs))

    alone = open_model(str(DIGITS))
    assert alone.title == "mambatree-nano_digits, random weights, seed 0"
    assert not alone.has_head
    again = open_model(str(DIGITS))
    assert torch.equal(alone.network(inputs), again.network(inputs))


@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")
def test_a_segmentors_backbone(tmp_path):
    """The backbone opens from its config, and from a checkpoint alone. The checkpoint's model states the scaling."""
    cfg = load_config(NUCLEI)
    opened = open_model(str(NUCLEI))
    assert opened.normalization.side == 128
    assert opened.normalization.mean == pytest.approx([value / 255 for value in cfg.model.data_preprocessor.mean])
    assert not opened.has_head
    state = {f"backbone.{name}": value for name, value in opened.network.state_dict().items()}
    state["decode_head.conv_seg.weight"] = torch.zeros(3)
    meta = {"model": cfg.model.to_dict()}
    torch.save({"state_dict": state, "meta": meta}, tmp_path / "iter_1.pth")
    alone = open_model(str(tmp_path / "iter_1.pth"))
    assert alone.normalization == opened.normalization
    assert not alone.has_head
    images = torch.rand(1, 3, 64, 64)
    for one, other in zip(alone.network(images), opened.network(images), strict=True):
        assert torch.equal(one, other)


def test_a_name_of_timm():
    opened = open_model("resnet10t")
    assert opened.title == "resnet10t, random weights, seed 0"
    assert opened.normalization.side == 176
    with pytest.raises(ConfigError, match=r"timm has no model 'mambatree_tinny' \(did you mean 'mambatree_tiny'\?\)"):
        open_model("mambatree_tinny")


def test_weights_that_cannot_be_fetched(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr("timm.create_model", fail)
    with pytest.raises(ConfigError, match=r"^timm's weights of resnet10t cannot be had: no route to host$"):
        open_model("resnet10t", pretrained=True)


@pytest.mark.parametrize("kind", ["os.system", "subprocess.Popen", "timm"])
def test_nothing_that_a_checkpoint_names_is_run(classifier, tmp_path, kind):
    """A file can name only models of the two families. Nothing else is built."""
    model = {"type": "ImageClassifier", "backbone": {"type": kind, "args": f"touch {tmp_path / 'harm'}"}}
    file = saved(tmp_path / "bad.pth", classifier, model=model, test_transform=TRANSFORM)
    with pytest.raises(CheckpointError, match="does not say which QuadMamba or MambaTreeV it holds: give its config"):
        open_model(file)
    assert not (tmp_path / "harm").exists()


def test_checkpoints_that_do_not_fit(classifier, tmp_path):
    model = {"type": "ImageClassifier", "backbone": {**BACKBONE, "num_classes": 4}}
    file = saved(tmp_path / "a.pth", classifier, model=model, test_transform=TRANSFORM)
    with pytest.raises(CheckpointError, match=r"does not fit its QuadMamba: 2 tensors differ, the first: head\.fc"):
        open_model(file)
    model["backbone"]["depth"] = 3
    file = saved(tmp_path / "b.pth", classifier, model=model, test_transform=TRANSFORM)
    with pytest.raises(CheckpointError, match=r"describes a model that cannot be built: .*depth"):
        open_model(file)
    for missing in (tmp_path / "none.pth", f"{DIGITS}={tmp_path / 'none.pth'}"):
        with pytest.raises(CheckpointError, match="there is no such file"):
            open_model(str(missing))
    with pytest.raises(ConfigError, match="there is no config"):
        open_model(str(tmp_path / "none.py"))


def test_images_are_turned_upright_and_keep_their_proportions(tmp_path):
    turned = Image.new("RGB", (60, 20), "red")
    exif = turned.getexif()
    exif[274] = 6  # the camera was turned by 90 degrees
    turned.save(tmp_path / "a.jpg", exif=exif)
    image = read_image(tmp_path / "a.jpg")
    assert image.size == (20, 60)
    assert to_area(image, 104).shape == (180, 60, 3)
    assert to_area(image.resize((4000, 1)), 64).shape == (32, 512, 3)
    assert to_square(image.convert("L"), 40).shape == (40, 40)
    assert to_area(image, 104).max() <= 1
    with pytest.raises(DataError, match=r"has 60 × 20 pixels: at most 0\.001 megapixels are taken"):
        read_image(tmp_path / "a.jpg", max_megapixels=0.001)
    for name in ("none.jpg", "."):
        with pytest.raises(DataError, match="cannot read the image"):
            read_image(tmp_path / name)
