"""Folders of our models in timm and transformers: the same answers, from files, without a network."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import adapt_input_conv

from quadtree_ssm import QuadMamba
from ssm_core.image_data import ImageData
from ssm_core.testing import assert_close
from ssm_train.data.transforms import TestTransform
from tree_ssm import MambaTreeV

pytestmark = [pytest.mark.recent, pytest.mark.needs("transformers")]  # an older timm does not know local-dir:
SIZE = dict(depths=(1, 1), dims=(8, 16), num_classes=5)
CLASSES = ("ant", "bee", "cat", "dog", "eel")
DATA = {
    1: ImageData((0.31,), (0.35,), (40, 40), 0.8, "bilinear", CLASSES),
    3: ImageData((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), (48, 48), 1.0, "bicubic", CLASSES),
}


@pytest.fixture(params=[QuadMamba, MambaTreeV], ids=["quadmamba", "mambatree"])
def family(request):
    torch.manual_seed(0)
    return request.param


def write(model, folder, channels):
    model.describe_images(DATA[channels])
    model.save_pretrained(folder)
    return str(folder)


def photographs(folder, channels, count=12):
    draw = np.random.default_rng(0)
    for number in range(count):
        size = (64, 56) if channels == 1 else (56, 64, 3)
        picture = Image.fromarray(draw.integers(0, 256, size, dtype=np.uint8)).resize((90, 70))
        picture.save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(count)]


@pytest.mark.parametrize("channels", [1, 3])
def test_files_have_the_same_answers_everywhere(family, channels, tmp_path):
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    model, paths = family(**SIZE, in_chans=channels).eval(), photographs(tmp_path, channels)
    pictures = [Image.open(path).convert("L" if channels == 1 else "RGB") for path in paths]
    data = DATA[channels]
    tested = TestTransform(data.size[0], data.crop_ratio, data.interpolation, data.mean, data.std)
    inputs = torch.stack([tested(picture) for picture in pictures])
    with torch.no_grad():  # the answers shall differ from image to image
        model.head.fc.weight.mul_(100)
        model.head.fc.bias.sub_(model(inputs).mean(0))
        expected = model(inputs)
        assert len(set(expected.argmax(1).tolist())) > 2
    folder = write(model, tmp_path / "net", channels)
    with torch.no_grad():
        in_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=in_timm))
        prepared = torch.stack([transform(picture) for picture in pictures])
        assert torch.equal(prepared, inputs)
        assert torch.equal(in_timm(prepared), expected)
        wrapped = AutoModelForImageClassification.from_pretrained(folder).eval()
        processor = AutoImageProcessor.from_pretrained(folder)
        # transformers leaves weights where they are in the file, and sums may be added in another order.
        assert_close(wrapped(**processor(pictures)).logits, expected, tolerance=1e-5)
    assert wrapped.config.id2label == dict(enumerate(CLASSES))
    # The pipeline reads files in colours. So does timm in its own programs.
    answers = pipeline("image-classification", model=folder)(paths, top_k=5)
    for answer, scores in zip(answers, expected.softmax(1), strict=True):
        assert [CLASSES.index(part["label"]) for part in answer] == scores.argsort(descending=True).tolist()
        assert [part["score"] for part in answer] == pytest.approx(scores.sort(descending=True)[0].tolist(), abs=1e-5)
    if channels == 1:
        with torch.no_grad():
            colours = torch.stack([transform(picture.convert("RGB")) for picture in pictures])
            assert torch.equal(in_timm(colours), expected)


def test_several_classes_are_questions_of_yes_and_no(family, tmp_path):
    from transformers import pipeline

    model = family(**SIZE)
    model.describe_images(DATA[3]._replace(multi_label=True))
    model.save_pretrained(tmp_path)
    path = photographs(tmp_path, 3, 1)[0]
    answer = pipeline("image-classification", model=str(tmp_path))(path, top_k=5)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    scores = model.eval()(transform(Image.open(path))[None]).sigmoid()[0]
    assert {part["label"]: part["score"] for part in answer} == pytest.approx(
        dict(zip(CLASSES, scores.tolist(), strict=True))
    )


def test_the_model_without_its_classifier(family, tmp_path):
    from transformers import AutoModel

    model = family(**SIZE).eval()
    wrapped = AutoModel.from_pretrained(write(model, tmp_path, 3)).eval()
    x = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        found, (final, maps) = wrapped(x, output_hidden_states=True), model.forward_intermediates(x)
        assert_close(found.last_hidden_state, final, tolerance=1e-5)
        assert_close(found.pooler_output, model.forward_head(final, pre_logits=True), tolerance=1e-5)
        for number, pair in enumerate(zip(found.hidden_states, maps, strict=True)):
            assert_close(*pair, f"map {number}", tolerance=1e-5)


def test_what_transformers_trains_and_saves_comes_back(family, tmp_path):
    from transformers import AutoModelForImageClassification

    folder = write(family(**SIZE, in_chans=1), tmp_path / "ours", 1)
    model = AutoModelForImageClassification.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
    model.activation_checkpointing_enable()
    x = torch.randn(4, 1, 40, 40)
    model.train()(x, labels=torch.tensor([0, 1, 2, 1])).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    model.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        expected = model.eval()(x).logits
        ours = family.from_pretrained(tmp_path / "theirs")
        assert_close(ours(x), expected, tolerance=1e-5)
        in_timm = timm.create_model(f"local-dir:{tmp_path / 'theirs'}", pretrained=True).eval()
        assert torch.equal(in_timm(x), ours(x))
    assert ours.image_data == DATA[1]._replace(classes=ours.image_data.classes)


@pytest.mark.parametrize("source", ["classifier", "backbone of a detector"])
def test_maps(family, source, tmp_path):
    from transformers import AutoBackbone, TimmBackbone, TimmBackboneConfig

    options = {} if source == "classifier" else {"out_indices": (0, 1)}
    model = family(**{**SIZE, **options}).eval()
    with torch.no_grad():
        for norm in model.out_norms.values():
            norm.weight.uniform_(0.5, 2)
    model.save_pretrained(tmp_path)
    x, name = torch.randn(2, 3, 64, 48), f"local-dir:{tmp_path}"
    with torch.no_grad():
        maps = model.forward_intermediates(x, norm=True, intermediates_only=True)
        if options:
            whole = timm.create_model(name, pretrained=True).eval()
            assert all(torch.equal(*pair) for pair in zip(whole(x), maps, strict=True))
        for backbone in (
            timm.create_model(name, pretrained=True, features_only=True, out_indices=(0, 1)),
            TimmBackbone.from_pretrained(name, out_indices=(0, 1)),
            AutoBackbone.from_config(TimmBackboneConfig(backbone=name, out_indices=(0, 1)), pretrained=True),
        ):
            found = backbone.eval()(x)
            found = getattr(found, "feature_maps", found)
            assert all(torch.equal(*pair) for pair in zip(found, maps, strict=True))
        (last,) = TimmBackbone.from_pretrained(name).eval()(x).feature_maps
        assert torch.equal(last, maps[-1])


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_timm_adapts_a_folder_to_other_channels_and_classes(family, channels, tmp_path):
    model = family(**SIZE, in_chans=1)
    folder = write(model, tmp_path, 1)
    other = timm.create_model(f"local-dir:{folder}", pretrained=True, in_chans=channels, num_classes=7)
    expected = adapt_input_conv(channels, model.stem.conv1.weight, 1)
    assert torch.equal(other.stem.conv1.weight, expected)
    assert torch.equal(other.stem.conv2.weight, model.stem.conv2.weight)
    assert other(torch.randn(2, channels, 40, 40)).shape == (2, 7)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_timm_reads_a_checkpoint_of_a_training(family, channels, tmp_path):
    """The weights of the whole model are in it, under the names that it has there."""
    options = {**SIZE, "arch": "nano"}
    name = f"{family.family}_nano"
    model = family(**options, in_chans=1).eval()
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, tmp_path / "epoch_3.pth")
    source = {"file": str(tmp_path / "epoch_3.pth"), "num_classes": 5, "input_size": (1, 32, 32)}
    adapted = timm.create_model(name, pretrained=True, in_chans=channels, pretrained_cfg_overlay=source, **SIZE)
    assert torch.equal(adapted.stem.conv1.weight, adapt_input_conv(channels, model.stem.conv1.weight, 1))
    assert torch.equal(adapted.head.fc.weight, model.head.fc.weight)
    if channels == 1:
        loaded = timm.create_model(name, in_chans=1, checkpoint_path=tmp_path / "epoch_3.pth", **SIZE).eval()
        assert torch.equal(loaded(torch.ones(1, 1, 32, 32)), model(torch.ones(1, 1, 32, 32)))


READ = """
import sys
import timm, torch, quadtree_ssm, tree_ssm
from transformers import TimmBackbone, pipeline

x = torch.ones(1, 1, 40, 40)
for name, family in (("quadmamba", quadtree_ssm.QuadMamba), ("mambatree", tree_ssm.MambaTreeV)):
    net = f"owner/{name}"
    models = family.from_pretrained(net), timm.create_model(f"hf-hub:{net}", pretrained=True).eval()
    models += (pipeline("image-classification", model=net).model,)
    for model in models:
        y = model(x)
        print("result", name, *getattr(y, "logits", y)[0].tolist())
    maps = TimmBackbone.from_pretrained(f"hf-hub:{net}", num_channels=1)(x).feature_maps
    print("result", name, *maps[0].shape)
"""


def test_downloaded_repositories_are_read_without_a_network(tmp_path):
    """The cache is laid out as huggingface_hub does it."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    models = {"quadmamba": QuadMamba(**SIZE, in_chans=1).eval(), "mambatree": MambaTreeV(**SIZE, in_chans=1).eval()}
    for name, model in models.items():
        folder = tmp_path / "hub" / f"models--owner--{name}"
        write(model, tmp_path / name, 1)
        shutil.copytree(tmp_path / name, folder / "snapshots" / commit)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", READ], env=environment, capture_output=True, text=True, check=True)
    results = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("result ")]
    assert [name for name, *_ in results] == ["quadmamba"] * 4 + ["mambatree"] * 4
    for name, model in models.items():
        *logits, shape = (list(map(float, values)) for of, *values in results if of == name)
        expected = model(torch.ones(1, 1, 40, 40))[0]
        for values in logits:
            assert_close(torch.tensor(values), expected, tolerance=1e-5)
        assert shape == [1, 16, 5, 5]
