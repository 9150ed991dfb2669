"""Tests of updates (precision, clipping, the stop before a NaN) and of parameter groups."""

import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from ssm_core.errors import ConfigError, NonFiniteError
from ssm_train.runtime.optimizers import GuardedOptimWrapper
from ssm_train.runtime.parameter_groups import no_weight_decay


def make(lr=0.1, **options):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, GuardedOptimWrapper(torch.optim.SGD(model.parameters(), lr=lr), **options)


X = torch.tensor([[1.0, -2.0, 3.0]])


def test_same_as_torch_with_clipping():
    model, wrapper = make(clip_grad=dict(max_norm=0.5))
    expected, _ = make()
    loss = expected(X).square().sum()
    loss.backward()
    nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
    torch.optim.SGD(expected.parameters(), lr=0.1).step()
    wrapper.update_params(model(X).square().sum())
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)


def test_accumulation_makes_one_update():
    model, wrapper = make(accumulative_counts=2)
    before = model.weight.clone()
    wrapper.update_params(model(X).sum())
    assert torch.equal(model.weight, before)
    wrapper.update_params(model(-X).sum())
    torch.testing.assert_close(model.weight, before)  # the two gradients cancel out
    assert not torch.equal(model.bias, make()[0].bias)


@pytest.mark.parametrize("bad", ["loss", "gradient", "first of two"])
def test_stops_before_the_update(bad):
    model, wrapper = make(clip_grad=dict(max_norm=1.0), accumulative_counts=2 if bad == "first of two" else 1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    nan = model(X).sum() * float("nan")
    # At zero the square root is finite, but its slope is infinite.
    infinite_slope = (model(X) - model(X).detach()).abs().sum().sqrt()
    match = "gradient norm is" if bad == "gradient" else "loss is nan"

    def update():
        wrapper.update_params(infinite_slope if bad == "gradient" else nan)
        if bad == "first of two":
            wrapper.update_params(model(X).sum())

    with pytest.raises(NonFiniteError, match=match):
        update()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_fused_update_is_left_out_on_the_device(bad):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    wrapper = GuardedOptimWrapper(optimizer, clip_grad=dict(max_norm=0.5))
    expected = copy.deepcopy(model)
    reference = torch.optim.AdamW(expected.parameters(), lr=0.1, fused=True)

    def step_both():
        wrapper.update_params(model(X).square().sum())
        reference.zero_grad()
        expected(X).square().sum().backward()
        nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
        reference.step()
        for a, b in zip(model.parameters(), expected.parameters(), strict=True):
            assert torch.equal(a, b)

    step_both()
    infinite_slope = (model.bias - model.bias.detach()).abs().sum().sqrt()
    worse = infinite_slope if bad == "gradient" else model.bias.sum() * torch.inf
    with pytest.raises(NonFiniteError, match="gradient norm is" if bad == "gradient" else "loss is"):
        wrapper.update_params(model(X).square().sum() + worse)
    assert model.weight.grad.isfinite().all()
    assert not model.bias.grad.isfinite().all()
    wrapper.zero_grad()
    step_both()  # the skipped update changed neither the parameters nor the optimizer's state
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_mixed_precision(name, dtype):
    model, wrapper = make(dtype=name, clip_grad=dict(max_norm=1.0))
    with wrapper.optim_context(model):
        output = model(X)
    assert output.dtype == dtype
    before = model.weight.clone()
    wrapper.update_params(1e-3 * output.float().square().sum())
    assert not torch.equal(model.weight, before)
    assert wrapper.scaler.is_enabled() == (name == "float16")
    other = make(dtype=name)[1]
    other.load_state_dict(wrapper.state_dict())
    assert other.scaler.get_scale() == wrapper.scaler.get_scale()


def test_too_large_a_loss_scale_is_no_divergence():
    model, wrapper = make(dtype="float16")
    wrapper.scaler.load_state_dict({**wrapper.scaler.state_dict(), "scale": 2.0**127})
    before = model.weight.clone()
    wrapper.update_params(1e5 * model(X).square().sum())
    assert torch.equal(model.weight, before)
    assert wrapper.scaler.get_scale() == 2.0**126


@pytest.mark.parametrize("options", [dict(dtype="half"), dict(clip_grad=dict(clip_value=1.0))])
def test_wrong_arguments(options):
    with pytest.raises(ConfigError):
        make(**options)


class Scan(nn.Module):
    def __init__(self):
        super().__init__()
        self.A_log = nn.Parameter(torch.ones(4, 2))
        self.proj = nn.Linear(4, 4)

    def no_weight_decay(self):
        return {"A_log"}


def build(model, **options):
    optimizer = dict(type="AdamW", lr=1e-3, weight_decay=0.05)
    return build_optim_wrapper(
        model, dict(constructor="ssm_train.TimmOptimWrapperConstructor", optimizer=optimizer, **options)
    )


def test_what_does_not_decay():
    model = nn.Sequential(Scan(), nn.LayerNorm(4))
    assert no_weight_decay(model) == {"0.A_log"}
    wrapper = build(model, type="ssm_train.GuardedOptimWrapper", clip_grad=dict(max_norm=5.0))
    decays = {id(p): g["weight_decay"] for g in wrapper.optimizer.param_groups for p in g["params"]}
    by_name = {name: decays[id(p)] for name, p in model.named_parameters()}
    assert by_name.pop("0.proj.weight") == 0.05
    assert set(by_name.values()) == {0.0}
    assert len(by_name) == 4


def test_our_models_do_not_decay_their_scans():
    from quadtree_ssm import QuadMamba

    model = QuadMamba(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=3, d_state=2)
    decays = {id(p): g["weight_decay"] for g in build(model).optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        still = parameter.ndim <= 1 or name.endswith((".A_log", ".D", ".dt_bias"))
        assert decays[id(parameter)] == (0.0 if still else 0.05), name


def test_layer_decay():
    import timm

    model = timm.create_model("test_efficientnet_gn", num_classes=3)
    wrapper = build(model, paramwise_cfg=dict(layer_decay=0.5))
    rates = {id(p): g["lr"] for g in wrapper.optimizer.param_groups for p in g["params"]}
    assert rates[id(model.classifier.weight)] == 1e-3
    assert rates[id(model.conv_stem.weight)] < 1e-3 / 4
    with pytest.raises(ConfigError, match="no norm_decay"):
        build(model, paramwise_cfg=dict(norm_decay=0))
