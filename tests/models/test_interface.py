"""Tests what every registered model must do, in the manner of timm's own tests."""

import copy
import pickle

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

import quadtree_ssm
import tree_ssm
from ssm_core.testing import assert_close

CLASSES = {"quadmamba": quadtree_ssm.QuadMamba, "mambatree": tree_ssm.MambaTreeV}
MODELS = timm.list_models([f"{family}_*" for family in CLASSES])
FAMILIES = ["quadmamba_lite", "mambatree_tiny"]
# These sizes have both kinds of stage, shifted blocks and blocks of every position, at a hundredth of the cost.
SMALL = {"depths": (1, 2, 2, 1), "dims": (16, 32, 32, 48), "num_classes": 7}


def small(name, **arguments):
    torch.manual_seed(0)
    return timm.create_model(name, **SMALL | arguments)


def images(height=32, width=32, batch=2, channels=3):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_forward_and_backward(name):
    torch.manual_seed(0)
    model = timm.create_model(name)
    assert isinstance(model, CLASSES[name.split("_")[0]])
    y = model(images(64, 32))
    assert y.shape == (2, 1000)
    assert y.isfinite().all()
    y.square().mean().backward()
    for parameter, gradient in gradients(model).items():
        assert gradient is not None, f"{parameter} gets no gradient"
        assert gradient.isfinite().all(), f"the gradient of {parameter} is not finite"


# The arguments that configs and checkpoints spelled out before these variants had names.
SPELLED_OUT = {
    "quadmamba_nano": {"depths": (1, 1, 2, 1), "dims": (32, 64, 128, 256), "ssm_ratio": 1.0, "drop_path_rate": 0.0},
    "mambatree_nano": {"depths": (1, 1, 2, 1), "dims": (32, 64, 128, 256), "ssm_ratio": 1.0, "drop_path_rate": 0.0},
    "mambatree_lite": {"depths": (2, 2, 4, 2), "dims": (40, 80, 160, 320)},
}


@pytest.mark.parametrize("std", [None, 0.02, 0.1], ids=["default", "0.02", "0.1"])
@pytest.mark.parametrize("name", FAMILIES)
def test_linear_layers_begin_with_the_standard_deviation_asked_for_and_scans_with_their_own(name, std):
    model = small(name, **({} if std is None else {"linear_std": std}))
    layers = {key: m.weight.detach() for key, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    plain = torch.cat([weight.flatten() for key, weight in layers.items() if not key.endswith("x_proj")])
    # A uniform distribution up to D^-½ has a standard deviation of (3 D)^-½.
    scans = [
        (weight * (3 * weight.shape[1]) ** 0.5).flatten() for key, weight in layers.items() if key.endswith("x_proj")
    ]
    assert plain.std().item() == pytest.approx(std or 0.02, rel=0.02)
    assert torch.cat(scans).std().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("out_indices", [None, (0, 1, 2, 3)], ids=["classifier", "backbone"])
@pytest.mark.parametrize("name", SPELLED_OUT)
def test_named_variants_are_what_was_spelled_out(name, out_indices):
    family, arch = name.split("_")
    models = []
    for arguments in ({"arch": arch}, SPELLED_OUT[name]):
        torch.manual_seed(0)
        models.append(CLASSES[family](**arguments, in_chans=1, num_classes=10, out_indices=out_indices))
    named, spelled = (model.state_dict() for model in models)
    assert named.keys() == spelled.keys()
    assert all(torch.equal(named[key], spelled[key]) for key in named), "the same weights under the same seed"
    rates = [[getattr(module, "drop_prob", None) for module in model.modules()] for model in models]
    assert rates[0] == rates[1]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [(33, 47), (32, 64), (35, 32), (97, 40)], ids=str)
def test_any_size(name, size):
    model = small(name).eval()
    assert model(images(*size)).isfinite().all()
    maps = small(name, out_indices=(0, 1, 2, 3), num_classes=0)(images(*size))
    assert [tuple(m.shape[2:]) for m in maps] == [tuple(-(-n // r) for n in size) for r in (4, 8, 16, 32)]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 3, 31, 64), (1, 3, 64, 16), (1, 1, 32, 32)], ids=str)
def test_unfit_input_is_one_clear_sentence(name, shape):
    with pytest.raises(ValueError, match=r"takes images \[B, 3, H, W\] with H and W at least 32, got") as error:
        small(name)(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_unfit_arguments_say_what_is_wrong(name):
    family = CLASSES[name.split("_")[0]]
    with pytest.raises(ValueError, match=r"unknown .* arch 'smal': choose one of .*; did you mean 'small'"):
        family(arch="smal")
    with pytest.raises(ValueError, match="depths and dims must have one entry a stage"):
        family(depths=(1, 1), dims=(16, 16, 16))
    with pytest.raises(ValueError, match=r"out_indices must name some of the stages 0 … 3, got \(0, 4\)"):
        small(name, out_indices=(0, 4))
    with pytest.raises(TypeError, match="dept"):
        small(name, dept=(1, 1, 1, 1))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("argument", "values", "words"),
    [
        ("drop_path_rate", (1.5, 1.0, -0.1, float("nan")), "drop_path_rate must be from 0 to below 1"),
        ("depths", ((1, -1, 1, 1),), "depths must be 0 or more"),
        ("dims", ((16, 0, 16, 16),), "dims must be 1 or more"),
        ("linear_std", (-0.1, 0, 1e17, float("inf"), float("nan")), "linear_std must be above 0 and at most 1"),
        ("mlp_ratio", (-1.0, 0.0, float("nan")), "mlp_ratio must be large enough"),
        ("num_classes", (-1,), "num_classes must be 0 or more"),
        ("in_chans", (-1, 0), "in_chans must be 1 or more"),
        ("d_state", (0, -1), "a scan needs a channel .* and a state"),
        ("ssm_ratio", (0.0, -1.0), "a scan needs a channel .* and a state"),
        ("global_pool", ("all",), "global_pool must be one of"),
    ],
)
def test_numbers_out_of_range_are_refused(name, argument, values, words):
    for value in values:
        with pytest.raises(ValueError, match=words):
            small(name, **{argument: value})


@pytest.mark.parametrize("family", CLASSES.values())
def test_a_classifier_needs_a_pooling(family):
    with pytest.raises(ValueError, match=r"global_pool must be one of .*, got None"):
        family(arch="nano", global_pool=None)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("d_state", [2, 5])
def test_any_number_of_states(name, d_state):
    model = small(name, d_state=d_state)
    model(images(32, 48)).square().mean().backward()
    for parameter, gradient in gradients(model).items():
        assert gradient.isfinite().all(), parameter


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_changes_nothing(name):
    # The choice of quadrants, dropout and stochastic depth draw random numbers. So checkpointing has to restore the
    # generators' state.
    x = images(48, 33, batch=4)
    results = []
    for enable in (False, True):
        model = small(name, drop_path_rate=0.5, drop_rate=0.2)
        model.set_grad_checkpointing(enable)
        torch.manual_seed(5)
        y = model(x)
        y.square().mean().backward()
        results.append((y, gradients(model)))
    assert torch.equal(results[0][0], results[1][0])
    for parameter, gradient in results[0][1].items():
        assert torch.equal(gradient, results[1][1][parameter]), parameter


@pytest.mark.parametrize("name", FAMILIES)
def test_seeds_reproduce_training_and_evaluation_needs_none(name):
    model = small(name, drop_path_rate=0.5)
    x = images(64, 64, batch=8)

    def run(seed):
        torch.manual_seed(seed)
        return model(x)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    model.eval()
    assert torch.equal(run(0), run(1))
    # A sample does not depend on the other samples of its batch.
    assert_close(model(x[2:3]), run(0)[2:3], tolerance=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_stochastic_depth_rises_linearly(name):
    blocks = [block for stage in small(name, drop_path_rate=0.5).stages for block in stage.blocks]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.5 * i / 5 for i in range(6)])


@pytest.mark.parametrize("name", FAMILIES)
def test_feature_maps(name):
    x = images(64, 48)
    model = small(name, out_indices=(0, -1))
    assert model.out_indices == (0, 3)
    first, last = model.eval()(x)
    assert first.shape == (2, 16, 16, 12)
    assert last.shape == (2, 48, 2, 2)
    for m in (first, last):  # they are normalised, and the norm's affine map is still the identity
        assert m.mean(1).abs().max() < 1e-5
        assert (m.var(1, unbiased=False) - 1).abs().max() < 1e-2
    # Every parameter is used. There is no stage beyond the last map, and no head.
    partial = small(name, out_indices=[1])
    sum(m.square().sum() for m in partial(x)).backward()
    assert all(gradient is not None for gradient in gradients(partial).values())
    assert len(partial.stages) == 2
    with pytest.raises(ValueError, match="returns feature maps and has no classifier"):
        partial.reset_classifier(3)


@pytest.mark.parametrize("name", FAMILIES)
def test_features_only(name):
    model = timm.create_model(name, features_only=True, **SMALL)
    assert model.feature_info.channels() == [16, 32, 32, 48]
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert [tuple(m.shape[1:]) for m in model(images(64, 32))] == [(16, 16, 8), (32, 8, 4), (32, 4, 2), (48, 2, 1)]
    model = timm.create_model(name, features_only=True, out_indices=(1, 2), **SMALL)
    assert model.feature_info.reduction() == [8, 16]
    maps = model(images(64, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [(32, 8, 4), (32, 4, 2)]
    sum(m.square().sum() for m in maps).backward()
    assert all(gradient is not None for gradient in gradients(model).values())


@pytest.mark.parametrize("name", FAMILIES)
def test_intermediates(name):
    model, x = small(name).eval(), images(64, 32)
    final, maps = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x))
    assert torch.equal(maps[-1], final.permute(0, 3, 1, 2))
    assert len(maps) == 4
    last_two = model.forward_intermediates(x, indices=2, output_fmt="NHWC", intermediates_only=True)
    assert torch.equal(last_two[1], final)
    (second,) = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
    assert torch.equal(second, maps[1])
    with pytest.raises(ValueError, match="output_fmt must be NCHW or NHWC"):
        model.forward_intermediates(x, output_fmt="NLC")


@pytest.mark.parametrize("name", FAMILIES)
def test_classifier_can_be_replaced(name):
    model, x = small(name).eval(), images()
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    assert features.shape == (2, model.head_hidden_size)
    assert model.get_classifier().out_features == model.num_classes == 7
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert model.get_classifier().out_features == model.num_classes == 3
    model.reset_classifier(0)
    assert torch.equal(model(x), features)
    assert small(name, num_classes=0).eval()(x).shape == features.shape
    assert small(name, num_classes=0, global_pool="")(x).shape == (2, 1, 1, model.head_hidden_size)


@pytest.mark.parametrize("name", FAMILIES)
def test_pretrained_cfg(name):
    model = timm.create_model(name, in_chans=1, **SMALL)
    cfg = model.pretrained_cfg
    assert cfg["input_size"] == (3, 224, 224)
    assert cfg["crop_pct"] == {"quadmamba_lite": 0.875, "mambatree_tiny": 1.0}[name]
    assert cfg["interpolation"] == "bicubic"
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    assert model.get_submodule(cfg["first_conv"]).weight.shape[1] == 1
    assert model(images(channels=1)).shape == (2, 7)


@pytest.mark.parametrize("name", FAMILIES)
def test_weight_decay_spares_dynamics_norms_and_biases(name):
    model = small(name)
    spared = model.no_weight_decay()
    decayed = {parameter.rpartition(".")[2] for parameter, _ in model.named_parameters() if parameter not in spared}
    assert decayed == {"weight", "dt_weight"}
    assert {parameter.rpartition(".")[2] for parameter in spared} == {"weight", "bias", "dt_bias", "A_log", "D"}
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=spared)
    assert len(groups[0]["params"]) == len(spared)
    assert groups[0]["weight_decay"] == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_layer_decay_has_a_group_a_block(name):
    model = small(name)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert layers["stem.conv1.weight"] == 0
    blocks = [f"stages.{i}.blocks.{j}." for i, depth in enumerate(SMALL["depths"]) for j in range(depth)]
    for number, block in enumerate(blocks, start=1):
        assert {layer for parameter, layer in layers.items() if parameter.startswith(block)} == {number}
    assert layers["stages.1.downsample.conv.weight"] == layers[blocks[1] + "norm1.weight"]
    if "mambatree" in name:
        assert layers["stages.0.norm.weight"] == layers[blocks[0] + "norm1.weight"]
    assert layers["head.fc.weight"] == len(blocks) + 1
    scales = {round(group["lr_scale"], 6) for group in param_groups_layer_decay(model, layer_decay=0.5)}
    assert scales == {round(0.5**k, 6) for k in range(len(blocks) + 2)}
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert max(coarse.values()) == 5


@pytest.mark.parametrize("name", FAMILIES)
def test_autocast(name):
    model, x = small(name), images(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
        loss = y.float().square().mean()
    loss.backward()
    assert y.isfinite().all()
    for parameter, gradient in gradients(model).items():
        assert gradient.isfinite().all(), parameter
        assert gradient.dtype == torch.float32
    model.eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        low = model(x)
    assert_close(low.float(), model(x), tolerance=0.05)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_whole_model_in_another_precision(name, dtype):
    model, x = small(name).eval(), images(64, 64)
    expected = model(x)
    y = model.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert_close(y.float(), expected, tolerance=1e-5 if dtype == torch.float64 else 0.05)


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_copied_and_pickled(name):
    model, x = small(name).eval(), images()
    other = timm.create_model(name, **SMALL).eval()
    other.load_state_dict(model.state_dict(), strict=True)
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_images(name):
    model, x = small(name).eval(), images(33, 47)
    assert_close(model(x.to(memory_format=torch.channels_last)), model(x), tolerance=1e-5)
