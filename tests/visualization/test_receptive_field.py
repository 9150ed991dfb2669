"""Compares effective receptive fields with fields computed by hand, and tests the maps of timm's models and ours."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

import tree_ssm  # noqa: F401
from quadtree_ssm import QuadMamba
from ssm_core.visualization import (
    area_shares,
    draw_receptive_field,
    effective_receptive_field,
    map_extractor,
    receptive_field_figure,
)


def convolution(weight, padding=1, stride=1):
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride, padding, bias=False)
    layer.weight.data.copy_(weight)
    return layer.double()


def test_two_convolutions_of_ones():
    """The field of two 3 × 3 box filters is the product of two triangles 1 2 3 2 1 around the centre."""
    net = nn.Sequential(*(convolution(torch.ones(1, 1, 3, 3)) for _ in range(2)))
    field = effective_receptive_field(net, [torch.rand(3, 1, 9, 11, dtype=torch.float64)])
    triangle = torch.tensor([1.0, 2, 3, 2, 1], dtype=torch.float64)
    expected = torch.zeros(9, 11, dtype=torch.float64)
    expected[2:7, 3:8] = triangle[:, None] * triangle
    torch.testing.assert_close(field, expected)


def test_stride_and_even_maps():
    """The centre of an even map is the place after the middle. In a 4 × 4 map it is (2, 2), over pixels 4 and 5."""
    net = convolution(torch.ones(1, 1, 2, 2), padding=0, stride=2)
    field = effective_receptive_field(net, [torch.rand(1, 1, 8, 8, dtype=torch.float64)])
    expected = torch.zeros(8, 8, dtype=torch.float64)
    expected[4:6, 4:6] = 1
    assert torch.equal(field, expected)


def test_channels_are_rectified_as_in_the_literature():
    """The field is Σ_c max(0, ∂s/∂x_c) with s = Σ_k max(0, y_k). The test writes out the sums for signed weights."""
    torch.manual_seed(0)
    weight = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    images = torch.randn(4, 2, 7, 7, dtype=torch.float64)
    expected, silent = torch.zeros(7, 7, dtype=torch.float64), 0
    for image in images:
        gradient = torch.zeros(2, 7, 7, dtype=torch.float64)
        for kernel in weight:
            if (kernel * image[:, 2:5, 2:5]).sum() > 0:
                gradient[:, 2:5, 2:5] += kernel
            else:
                silent += 1
        expected += gradient.clamp(min=0).sum(0) / len(images)
    assert 0 < silent < 20
    net = convolution(weight)
    torch.testing.assert_close(effective_receptive_field(net, [images]), expected)
    torch.testing.assert_close(effective_receptive_field(net, images.split([1, 3])), expected)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_faulty_images_and_maps():
    net = convolution(torch.ones(1, 1, 3, 3))
    with pytest.raises(ValueError, match="no images"):
        effective_receptive_field(net, [])
    sizes = [torch.rand(1, 1, n, 5, dtype=torch.float64) for n in (5, 6)]
    with pytest.raises(ValueError, match=r"differ in size: \(5, 5\) and \(6, 5\)"):
        effective_receptive_field(net, sizes)
    with pytest.raises(ValueError, match=r"needs a map \[B, C, H, W\], got a tensor of shape \(1, 25\)"):
        effective_receptive_field(nn.Flatten(), sizes)


def test_area_shares():
    even = torch.ones(100, 200, dtype=torch.float64)
    for share, area in area_shares(even, (0.25, 0.5, 1.0)).items():
        assert area == pytest.approx(share, abs=0.01)
    point = torch.zeros(64, 64, dtype=torch.float64)
    point[32, 32] = 3
    assert area_shares(point) == dict.fromkeys((0.2, 0.3, 0.5, 0.99), 1 / 64**2)
    corner = torch.zeros(64, 64, dtype=torch.float64)
    corner[0, 0] = 1
    assert set(area_shares(corner).values()) == {1.0}
    with pytest.raises(ValueError, match="zero everywhere"):
        area_shares(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="not finite"):
        area_shares(torch.full((4, 4), torch.nan))


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "test_convnext", "test_efficientnet", "mambatree_tiny"])
def test_maps_of_timm_models(name):
    """All kinds of model give a map in the same layout, and a field of the image's size."""
    torch.manual_seed(0)
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)} if name == "mambatree_tiny" else {}
    model = timm.create_model(name, **sizes).eval()
    side = model.pretrained_cfg["input_size"][1] if name == "test_vit" else 64
    images = torch.rand(1, 3, side, side)
    maps = map_extractor(model)(images)
    assert (maps.dim(), maps.shape[1]) == (4, model.feature_info[-1]["num_chs"])
    field = effective_receptive_field(map_extractor(model), [images])
    assert field.shape == (side, side)
    assert field.min() >= 0
    assert field.max() > 0


def test_stages_by_number():
    torch.manual_seed(0)
    model = QuadMamba(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=0).eval()
    images = torch.rand(1, 3, 64, 64)
    assert [map_extractor(model, stage)(images).shape[1:] for stage in (0, -2)] == [(8, 16, 16), (24, 4, 4)]
    for name, network in (("QuadMamba", model), ("ResNet", timm.create_model("resnet10t"))):
        with pytest.raises(ValueError, match=f"{name} gives no map of stage 7 for images of 64×64"):
            map_extractor(network, 7)(images)
    with pytest.raises(ValueError, match="Linear has no forward_intermediates"):
        map_extractor(nn.Linear(1, 1))


def test_the_drawing_is_logarithmic():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    field = torch.tensor([[0.0, 1e-9], [0.02, 2.0]], dtype=torch.float64)
    drawn = draw_receptive_field(axes, field)
    mean = (2.02 + 1e-9) / 4
    np.testing.assert_allclose(axes.images[0].get_array(), field / mean)
    assert drawn.get_clim() == pytest.approx((0.01, 2 / mean))
    # Colours are evenly spread over the logarithms, and what is below a hundredth of the mean is black.
    share = (np.log10(0.02 / mean) + 2) / (np.log10(2 / mean) + 2)
    assert drawn.norm(field / mean).tolist() == [[0, 0], [pytest.approx(share), pytest.approx(1)]]


def test_models_are_compared_on_one_scale():
    """One field has a tenth of the size of the other at outputs a thousand times as large."""
    wide, narrow = torch.ones(40, 40, dtype=torch.float64), torch.zeros(40, 40, dtype=torch.float64)
    narrow[18:22, 18:22] = 1000
    figure = receptive_field_figure({"wide": wide, "narrow": narrow}, "two models")
    first, second, bar = figure.axes
    assert (first.get_title(), second.get_title(), figure.get_suptitle()) == ("wide", "narrow", "two models")
    assert (first.images[0].get_array() == 1).all()
    assert second.images[0].get_array().max() == 100
    assert first.images[0].get_clim() == second.images[0].get_clim()
    assert bar.get_ylim() == pytest.approx(first.images[0].get_clim())
    assert bar.get_ylim() == pytest.approx((0.01, 100))
    assert bar.get_ylabel() == "contribution ÷ its mean"
    long = receptive_field_figure({"a_name_without_spaces_that_is_longer_than_its_panel_is, and more": wide, "b": wide})
    long.draw_without_rendering()
    panel = long.axes[0]
    assert "\n" in panel.get_title()
    assert panel.title.get_window_extent().width <= panel.get_window_extent().width + 1
    with pytest.raises(ValueError, match="no receptive fields"):
        receptive_field_figure({})
