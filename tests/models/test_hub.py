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
    assert "hf-hub:somebody/net" in card
    assert "## Results" in card
    assert json.loads((tmp_path / "somebody" / "net" / "config.json").read_text())["num_classes"] == 5
