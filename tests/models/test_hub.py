"""Saves both families to a folder in the Hugging Face Hub's layout. Our methods and timm's load them back."""

import copy
import json
import shutil
from types import SimpleNamespace

import huggingface_hub.hub_mixin
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from quadtree_ssm import QuadMamba
from ssm_core.errors import CheckpointError
from ssm_core.image_data import ImageData
from tree_ssm import MambaTreeV

SIZE = dict(depths=(1, 1), dims=(8, 16), in_chans=1, num_classes=5)


@pytest.fixture(params=[QuadMamba, MambaTreeV], ids=["quadmamba", "mambatree"])
def model(request):
    torch.manual_seed(0)
    return request.param(**SIZE).eval()


def same(a, b):
    images = torch.randn(2, 1, 40, 36)
    return torch.equal(a(images), b(images))


def test_there_and_back(model, tmp_path):
    model.reset_classifier(7)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.num_classes == 7
    assert same(loaded, model)
    assert same(copy.deepcopy(model), model)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    card = (tmp_path / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert f"{type(model).__name__}.from_pretrained" in card
    assert "https://arxiv.org/abs/" in card


@pytest.mark.recent  # timm 1.0.12 does not know local-dir:
def test_timm_reads_the_folder(model, tmp_path):
    model.reset_classifier(7)
    model.save_pretrained(tmp_path)
    assert same(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval(), model)


def test_every_argument_comes_back(tmp_path):
    model = QuadMamba(**SIZE, token_order="released", choice=2, ssm_ratio=1.5, d_state=2, conv_bias=True).eval()
    model.save_pretrained(tmp_path)
    loaded = QuadMamba.from_pretrained(tmp_path)
    assert same(loaded, model)
    assert loaded._hub_mixin_config["token_order"] == "released"


def test_maps_come_back(tmp_path):
    model = MambaTreeV(depths=(1, 1), dims=(8, 16), out_indices=(0, 1)).eval()
    model.save_pretrained(tmp_path)
    maps = MambaTreeV.from_pretrained(tmp_path)(torch.randn(1, 3, 32, 32))
    assert [tuple(x.shape) for x in maps] == [(1, 8, 8, 8), (1, 16, 4, 4)]


GREY = ImageData((0.3,), (0.2,), (48, 40), 0.9, "bilinear", ("a", "b", "c", "d", "e"), True, (0.0, 4095.0))


def test_images_and_classes_are_in_the_folder(model, tmp_path):
    model.describe_images(GREY)
    model.save_pretrained(tmp_path / "a")
    loaded = type(model).from_pretrained(tmp_path / "a")
    assert loaded.image_data == GREY
    found = timm.data.resolve_data_config({}, model=loaded)
    assert {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in found.items()} == {
        "input_size": (1, 48, 40), "interpolation": "bilinear", "mean": (0.3,), "std": (0.2,), "crop_pct": 0.9,
        "crop_mode": "center",
    }  # fmt: skip
    # What is saved again says the same, but for what has changed since.
    loaded.save_pretrained(tmp_path / "b")
    texts = [(tmp_path / name / "config.json").read_text() for name in "ab"]
    assert json.loads(texts[0]) == {
        **(second := json.loads(texts[1])), "model_args": {**second["model_args"], "grey_from_colours": True}
    }  # fmt: skip
    loaded.reset_classifier(3, "max")
    loaded.set_input_size((64, 32))
    loaded.save_pretrained(tmp_path / "c")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert "label_names" not in config
    assert config["pretrained_cfg"]["input_size"] == [1, 64, 32]
    assert config["pretrained_cfg"]["num_classes"] == config["num_classes"] == 3
    assert config["model_args"]["global_pool"] == "max"
    again = type(model).from_pretrained(tmp_path / "c")
    assert (again.img_size, again.image_data.size, again.image_data.classes) == ((64, 32), (64, 32), None)
    assert same(again, loaded)
    card = (tmp_path / "a" / "README.md").read_text()
    assert "| size | 48 × 40 pixels, scaled by bilinear interpolation; the centre" in card
    assert "mean 0.3 and standard deviation 0.2, of values between 0 and 1, which are 0 and 4095 in a file" in card
    assert "| classes | a, b, c, d, e; an image can have several |" in card
    assert "16-bit values above 255: make them\n8-bit first" in card
    assert "ImageNet" not in card


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mean": (0.1, 0.2)}, "mean and std have one number"),
        ({"mean": (0.1, 0.2), "std": (0.1, 0.2)}, "for each of 1 channels"),
        ({"std": (0.0,)}, "std is above 0"),
        ({"mean": (float("nan"),)}, "finite numbers"),
        ({"size": (32, 0)}, "size is a height and a width"),
        ({"interpolation": "cubic"}, "interpolation is one of nearest, bilinear"),
        ({"classes": ("a", "b")}, "classes are the names of 5 classes"),
        ({"value_range": (1.0, 0.0)}, "value_range is"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(changed, words, model, tmp_path):
    with pytest.raises(ValueError, match=words):
        model.describe_images(GREY._replace(**changed))
    if "classes" in changed or "value_range" in changed:
        return
    model.describe_images(GREY)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    names = {"size": "input_size"}
    config["pretrained_cfg"].update({names.get(key, key): value for key, value in changed.items()})
    path.write_text(json.dumps(config))
    if "mean" in changed and len(changed["mean"]) == 2:  # of other channels: their mean is taken
        return
    with pytest.raises(CheckpointError, match=rf"config\.json says wrongly how images are prepared: .*{words}"):
        type(model).from_pretrained(tmp_path)


def test_folders_of_earlier_versions_are_read(model, tmp_path):
    """They have all arguments beside the other entries, and in model_args, too."""
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    arguments = {key: value for key, value in config["model_args"].items() if key != "grey_from_colours"}
    arguments["num_classes"] = config["num_classes"]
    for found in ({**config, **arguments, "model_args": arguments}, {"pretrained_cfg": {}, **arguments}):
        path.write_text(json.dumps(found))
        assert same(type(model).from_pretrained(tmp_path), model)


@pytest.mark.recent  # timm 1.0.12 does not know local-dir:
def test_timm_keeps_what_it_has_no_word_for(model, tmp_path):
    model.describe_images(GREY)
    model.save_pretrained(tmp_path / "a")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'a'}", pretrained=True)
    loaded.save_pretrained(tmp_path / "b")
    ours, theirs = (json.loads((tmp_path / name / "config.json").read_text()) for name in "ab")
    assert ours == theirs | {"model_args": ours["model_args"]}
    assert type(model).from_pretrained(tmp_path / "b").image_data == GREY
    loaded.describe_images(GREY._replace(multi_label=False, value_range=None))
    assert {"problem_type", "value_range"}.isdisjoint(loaded.hub_config())


def test_names_that_are_no_text(model, tmp_path):
    model.describe_images(GREY._replace(classes=("\udcff", "b", "c", "d", "e")))
    with pytest.raises(ValueError, match=r"^the name of class 0, '\\udcff', is no text: rename the class$"):
        model.save_pretrained(tmp_path / "none")
    assert not list((tmp_path / "none").iterdir())
    model.describe_images(GREY)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"label_names": "abcde"}))
    with pytest.raises(CheckpointError, match="says wrongly how images are prepared: label_names is a list of names"):
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize(("channels", "read"), [(1, True), (3, True), (6, False)])
def test_the_card_shows_what_transformers_reads(channels, read, model, tmp_path):
    type(model)(depths=(1, 1), dims=(8, 16), in_chans=channels).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert ("pipeline(" in card, "With transformers" in card) == (read, read)
    assert card.count("```") % 2 == 0
    assert "resolve_data_config({}, model=model))\n```\n\n" in card


@pytest.mark.parametrize("arguments", [{}, {"depths": (1, 1), "dims": (8, 16)}], ids=["nano", "other sizes"])
def test_the_card_names_the_model(arguments, model, tmp_path):
    network = type(model)(arch="nano", **arguments)
    network.save_pretrained(tmp_path / "net")
    card = (tmp_path / "net" / "README.md").read_text()
    name = f"{type(model).__name__}{'' if arguments else '-Nano'}"
    assert f"\n# {name}\n\n{name} with " in card
    assert "They stand here if nothing else was said of the model." in card
    assert "pipeline_tag: image-classification" in card
    type(model)(arch="nano", out_indices=(0, 1), **arguments).save_pretrained(tmp_path / "maps")
    card = (tmp_path / "maps" / "README.md").read_text()
    assert "pipeline_tag: image-feature-extraction" in card
    assert "AutoModel.from_pretrained" in card


def test_weights_that_do_not_fit_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("head.fc.bias")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"head\.fc\.bias is not in the file"):
        type(model).from_pretrained(tmp_path)


def test_push(model, tmp_path, monkeypatch):
    """The model is pushed to a folder that stands in for the Hub."""

    class Hub:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **options):
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id, folder_path, **options):
            shutil.copytree(folder_path, tmp_path / repo_id)
            return f"file://{tmp_path / repo_id}"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Hub)
    model.push_to_hub("somebody/net", model_card_kwargs={"name": "somebody/net", "results_table": "| top-1 |"})
    assert same(type(model).from_pretrained(tmp_path / "somebody" / "net"), model)
    card = (tmp_path / "somebody" / "net" / "README.md").read_text()
    assert "# somebody/net\n" in card
    assert "hf-hub:somebody/net" in card
    assert 'from_pretrained("somebody/net")' in card
    assert 'pipeline("image-classification", model="somebody/net")' in card
    assert "## Results" in card
    assert json.loads((tmp_path / "somebody" / "net" / "config.json").read_text())["num_classes"] == 5
