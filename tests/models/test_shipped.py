"""Weights that come with a package: the table, the digits in the names of files, and timm's names."""

import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg

import quadtree_ssm.models
import tree_ssm.models
from quadtree_ssm import QuadMamba
from ssm_core.backbone import timm_cfgs
from ssm_core.errors import CheckpointError
from ssm_core.image_data import ImageData
from ssm_core.safetensors_file import write_safetensors
from ssm_core.shipped import FOLDER, ShippedWeights, digits_of, read_shipped, write_shipped
from ssm_core.testing import assert_close
from ssm_core.timm_interface import create_for_timm
from tree_ssm import MambaTreeV

FAMILIES = {"quadmamba_nano": (QuadMamba, quadtree_ssm.models), "mambatree_nano": (MambaTreeV, tree_ssm.models)}
SIZE = {"arch": "nano", "depths": (1, 1), "dims": (8, 16)}
CLASSES = ("shirt", "coat", "bag")


class Made:
    """A folder with the table and the file of a small model that was never trained."""

    def __init__(self, variant, folder):
        self.variant = variant
        self.family, self.models = FAMILIES[variant]
        torch.manual_seed(0)
        self.model = self.family(**SIZE, in_chans=1, num_classes=3).eval()
        self.model.describe_images(ImageData((0.3,), (0.4,), (40, 48), 0.9, "bilinear", CLASSES))
        cfg = {**self.model.hub_config()["pretrained_cfg"], "label_names": CLASSES}
        for tensor in self.model.state_dict().values():  # what float16 holds exactly
            tensor.copy_(tensor.half())
        state = {f"backbone.{name}": tensor.half() for name, tensor in self.model.state_dict().items()}
        write_safetensors(folder / "net.safetensors", state, {"dataset_meta": {"classes": CLASSES}})
        path = (folder / "net.safetensors").rename(folder / f"net-{digits_of(folder / 'net.safetensors')}.safetensors")
        write_shipped(folder, [ShippedWeights(f"{variant}.garments", path, "a/net_garments", {"top1": 91.25}, cfg)])
        self.rows = read_shipped(folder)
        self.cfg = timm_cfgs([variant], 0.9, self.rows)[variant].cfgs["garments"].to_dict()

    def create(self, pretrained=True, **options):
        return create_for_timm(
            self.family,
            self.variant,
            pretrained,
            self.models.checkpoint_filter_fn,
            self.rows,
            **{"pretrained_cfg": self.cfg, **SIZE, **options},
        ).eval()


@pytest.fixture(params=FAMILIES)
def made(request, tmp_path):
    return Made(request.param, tmp_path)


def images(channels, height=40, width=48):
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(1))


def test_the_table_is_what_was_written(made, tmp_path):
    (row,) = made.rows
    assert (row.name, row.config, row.figures) == (f"{made.variant}.garments", "a/net_garments", {"top1": 91.25})
    assert row.checked() == row.path
    assert row.path.parent == tmp_path
    assert read_shipped(tmp_path / "none") == ()


@torch.no_grad()
def test_a_model_by_its_name(made):
    model = made.create()
    assert (model.in_chans, model.num_classes) == (1, 3)
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())
    expected = made.model(images(1))
    assert torch.equal(model(images(1)), expected)
    # Programs of timm read grey files in colours.
    assert torch.equal(model(images(1).expand(-1, 3, -1, -1)), expected)
    data = timm.data.resolve_data_config({}, model=model)
    assert data == {
        "input_size": (1, 40, 48), "interpolation": "bilinear", "mean": (0.3,), "std": (0.4,), "crop_pct": 0.9,
        "crop_mode": "center",
    }  # fmt: skip
    assert model.pretrained_cfg["label_names"] == CLASSES
    assert "label_names" not in made.create(num_classes=7).pretrained_cfg
    assert made.create(pretrained=False).in_chans == 1


@torch.no_grad()
def test_another_number_of_classes(made):
    model = made.create(num_classes=7)
    assert model(images(1)).shape == (2, 7)
    assert torch.equal(model.forward_features(images(1)), made.model.forward_features(images(1)))


@pytest.mark.recent
@pytest.mark.parametrize("channels", [2, 3, 5])
@torch.no_grad()
def test_another_number_of_channels(made, channels):
    """Equal channels give what one gave, up to the rounding of the filters to float16."""
    model = made.create(in_chans=channels)
    assert model.in_chans == channels
    assert_close(model(images(1).expand(-1, channels, -1, -1)), made.model(images(1)), tolerance=2e-3)
    maps = made.create(in_chans=channels, features_only=True, out_indices=(0, 1))(images(channels))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 10, 12), (2, 16, 5, 6)]


@pytest.mark.parametrize("place", [0, 0.3, 1])
def test_a_byte_that_was_changed_is_refused(made, place):
    (row,) = made.rows
    content = bytearray(row.path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    row.path.write_bytes(content)
    found, said = digits_of(row.path), row.path.stem[-8:]
    sentence = f"{row.path} is damaged: its SHA-256 begins with {found}, and its name says {said}; install the package"
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)} again$"):
        made.create()
    made.create(pretrained=False)


def test_a_file_that_is_missing(made):
    (row,) = made.rows
    row.path.unlink()
    with pytest.raises(CheckpointError, match=r"^cannot read .+: No such file or directory; install the package again"):
        made.create()


def test_a_name_without_a_tag_has_no_weights(made):
    bare = get_pretrained_cfg(made.variant).to_dict()
    with pytest.raises(RuntimeError, match=rf"^{made.variant} has no weights without a tag: name those of "):
        made.create(pretrained_cfg=bare)
    cfgs = timm_cfgs([made.variant, "other"], 0.9, made.rows)
    assert (list(cfgs[made.variant].tags), list(cfgs["other"].tags)) == (["", "garments"], [""])


@pytest.mark.parametrize("variant", FAMILIES)
def test_a_name_without_a_tag_is_the_network_alone(variant):
    model = timm.create_model(variant)
    assert (model.in_chans, model.num_classes, model.pretrained_cfg["input_size"]) == (3, 1000, (3, 224, 224))
    sentences = f"^({variant} has no weights without a tag|No pretrained weights exist for {variant})"
    with pytest.raises(RuntimeError, match=sentences):
        timm.create_model(variant, pretrained=True)


@pytest.mark.parametrize("models", [models for _, models in FAMILIES.values()], ids=FAMILIES)
def test_timm_knows_what_comes_with_the_package(models):
    folder = Path(models.__file__).with_name(FOLDER)
    assert sorted(folder.glob("*.safetensors")) == sorted(row.path for row in models.SHIPPED)
    for row in models.SHIPPED:
        assert row.name in timm.list_pretrained()
        assert row.checked().stat().st_size <= 6_000_000
