"""What timm's functions and programs expect of a model, compared with what timm's own models do."""

import copy
import pickle

import pytest
import timm
import torch
import torch.fx
import torchvision.models.feature_extraction as torchvision_features
from timm.layers import SelectAdaptivePool2d
from timm.models import create_feature_extractor
from timm.models._features import FeatureGetterNet, feature_take_indices

from quadtree_ssm import QuadMamba
from ssm_core.ops.calling import NO_TORCHSCRIPT
from ssm_core.testing import assert_close
from tree_ssm import MambaTreeV

SIZES = {"depths": (1, 2, 1), "dims": (8, 16, 24), "num_classes": 5}
OURS = {
    "quadmamba": lambda **options: timm.create_model("quadmamba_nano", **SIZES | options),
    "mambatree": lambda **options: timm.create_model("mambatree_nano", **SIZES | options),
}
THEIRS = {
    "swin": lambda **options: timm.create_model(
        "swin_tiny_patch4_window7_224",
        **{"embed_dim": 8, "depths": (1, 1, 1), "num_heads": (1, 1, 1), "num_classes": 5, "img_size": 64} | options,
    ),
    "convnext": lambda **options: timm.create_model(
        "convnext_atto", **{"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 24), "num_classes": 5} | options
    ),
}
# Every kind of scan: what graphs of torch.fx have to hold.
SCANS = {
    "quadtree": lambda: QuadMamba(**SIZES),
    "released order": lambda: QuadMamba(**SIZES, token_order="released"),
    "fixed quadrant": lambda: QuadMamba(**SIZES, choice=2),
    "row by row": lambda: QuadMamba(**SIZES, quadtree_levels=0),
    "scores with context": lambda: QuadMamba(**SIZES, predictor_context="global", d_state=2),
    "tree": lambda: MambaTreeV(**SIZES),
    "shared tree of several states": lambda: MambaTreeV(**SIZES, tree_sharing="stage", d_state=2),
    "random tree": lambda: MambaTreeV(**SIZES, tree_kind="random", tree_root="center"),
    "raster": lambda: MambaTreeV(**SIZES, tree_kind="raster", tree_root="center"),
    "maximum tree": lambda: MambaTreeV(**SIZES, tree_kind="maximum", guide_distance="manhattan", tree_root="last"),
    "maps": lambda: QuadMamba(**SIZES, out_indices=(0, 2)),
}


@pytest.fixture(params=OURS)
def build(request):
    torch.manual_seed(0)
    return OURS[request.param]


def images(height=64, width=64, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def flat(outputs):
    return torch.cat([m.flatten() for m in outputs]) if isinstance(outputs, list) else outputs


@pytest.mark.recent  # Swin of an older timm pools in one way
@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax", "fast", "fastmax", ""])
def test_pooling_is_timms(build, pool):
    model, swin = build(global_pool=pool).eval(), THEIRS["swin"](global_pool=pool).eval()
    x = images()
    features = model.head.transform(model.forward_features(x))
    expected = SelectAdaptivePool2d(pool_type=pool, flatten=bool(pool), input_fmt="NHWC")(features)
    assert_close(model.forward_head(model.forward_features(x), pre_logits=True), expected)
    assert_close(model(x), model.get_classifier()(expected))
    assert model.head_hidden_size == expected.shape[-1] == model.get_classifier().in_features
    assert model(x).shape == swin(x).shape
    ratio = swin.head_hidden_size // swin.num_features
    assert model.head_hidden_size == ratio * build().head_hidden_size


@pytest.mark.recent  # Swin of an older timm pools in one way
def test_the_classifier_keeps_its_pooling_until_another_is_asked_for(build):
    for make in (build, *THEIRS.values()):
        model = make(global_pool="max").eval()
        x = images()
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        model.reset_classifier(7)
        assert_close(model.forward_head(model.forward_features(x), pre_logits=True), pooled)
        assert model(x).shape == (2, 7)
        if make is not THEIRS["convnext"]:  # which cannot be twice as wide
            model.reset_classifier(3, "catavgmax")
            assert model(x).shape == (2, 3)
            assert model.head_hidden_size == 2 * pooled.shape[1]
        model.reset_classifier(0, "")
        assert model(x).ndim == 4
        assert not any(module.training for module in model.modules())
    with pytest.raises(ValueError, match=r"global_pool must be one of 'avg', 'max', .*, got 'mean'"):
        build(global_pool="mean")


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("scan", SCANS)
def test_a_graph_is_the_model_at_every_size(scan, training):
    """The graph is traced without an image. So nothing of a size can be in it."""
    torch.manual_seed(0)
    model = SCANS[scan]().train(training)
    graph = torch.fx.symbolic_trace(model)
    for x in (images(), images(33, 47, batch=3)):
        results = []
        for run in (model, graph):
            model.zero_grad()
            torch.manual_seed(5)  # of noise and of random trees
            y = flat(run(x))
            y.square().sum().backward()
            results.append((y, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        assert torch.equal(results[0][0], results[1][0])
        assert len(results[0][1]) == len(results[1][1]) == len(list(model.parameters()))
        for ours, graphs in zip(*(gradients for _, gradients in results), strict=True):
            assert_close(graphs, ours)


def test_a_graph_still_refuses_images(build):
    graph = torch.fx.symbolic_trace(build().eval())
    with pytest.raises(
        ValueError, match=r"takes images \[B, 3, H, W\] with H and W at least 32, got .*\(1, 3, 31, 64\)"
    ):
        graph(torch.zeros(1, 3, 31, 64))
    again = pickle.loads(pickle.dumps(graph))
    assert torch.equal(again(images()), graph(images()))


@pytest.mark.parametrize(
    "extractor", [create_feature_extractor, torchvision_features.create_feature_extractor], ids=["timm", "torchvision"]
)
def test_features_by_name(build, extractor):
    model, x = build().eval(), images(64, 96)
    names = {"stages.1": "second", "stages.2.blocks.0.mixer.out_proj": "mixed", "head.fc": "logits"}
    found = extractor(model, names)(x)
    outputs = {}
    for name, title in names.items():
        model.get_submodule(name).register_forward_hook(lambda *call, title=title: outputs.update({title: call[2]}))
    model(x)
    assert found.keys() == outputs.keys()
    for title, expected in outputs.items():
        assert torch.equal(found[title], expected), title


@pytest.mark.recent  # an older timm hands arguments of lists to graphs
@pytest.mark.parametrize("kind", ["getter", "hook", "fx", "list", "dict"])
def test_every_way_of_extracting_features_gives_the_same_maps(build, kind):
    maps = []
    for way in ("getter", kind):
        torch.manual_seed(0)
        maps.append(build(features_only=True, feature_cls=way, out_indices=(0, 2)).eval())
    x = images(96, 64)
    expected = [m.permute(0, 2, 3, 1) for m in maps[0](x)]
    found = maps[1](x)
    found = list(found.values()) if isinstance(found, dict) else found
    if kind == "getter":
        found = [m.permute(0, 2, 3, 1) for m in found]
    else:
        assert maps[1].output_fmt == "NHWC"
    assert [m.shape for m in found] == [(2, 24, 16, 8), (2, 6, 4, 24)]
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    assert maps[1].feature_info.channels() == [8, 24]
    with pytest.raises(ValueError, match="takes images"):
        maps[1](torch.zeros(1, 3, 16, 16))


def test_torchscript_is_refused_in_one_sentence(build):
    model = build().eval()
    for graph in (model, torch.nn.Sequential(model), torch.fx.symbolic_trace(model)):
        # PyTorch says that scripting is deprecated: 2.10 by another class than later ones.
        with pytest.warns((FutureWarning, DeprecationWarning)), pytest.raises(RuntimeError) as error:
            torch.jit.script(graph)
        assert str(error.value) == NO_TORCHSCRIPT


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated", "ignore::torch.jit.TracerWarning")
def test_torchs_tracer_records_the_operators_that_it_knows():
    x = images()
    tree = OURS["mambatree"]().eval()
    assert_close(torch.jit.trace(tree, x, check_trace=False)(images(batch=3)), tree(images(batch=3)))
    with pytest.raises(RuntimeError) as error:
        torch.jit.trace(OURS["quadmamba"]().eval(), x)
    assert str(error.value) == NO_TORCHSCRIPT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_device_and_dtype_of_the_factory(build, dtype):
    model = build(device="meta", dtype=dtype)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", dtype)}
    y = model(torch.empty(2, 3, 64, 96, dtype=dtype, device="meta"))
    assert (tuple(y.shape), y.dtype, y.device.type) == ((2, 5), dtype, "meta")
    y.sum().backward()
    assert all(p.grad.shape == p.shape for p in model.parameters())


def test_image_sizes(build):
    model = build(img_size=96)
    assert model.img_size == (96, 96)
    assert model(images(64, 33)).shape == (2, 5)  # a recommendation
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.set_input_size(img_size=(128, 64))
    assert model.img_size == (128, 64)
    model.set_input_size()
    assert model.img_size == (128, 64)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert build().img_size is None
    for size in (31, (32,), (64, 16), (64, 64.0), "64"):
        with pytest.raises(ValueError, match="img_size is a height and a width from 32 pixels on, or one number"):
            model.set_input_size(size)


@pytest.mark.recent  # an older timm does not tell
def test_timm_tells_the_image_size(build):
    from timm.models import get_model_input_config

    for model in (build(img_size=96), THEIRS["swin"](img_size=96)):
        assert get_model_input_config(model)["input_size"] == (3, 96, 96)
        model.set_input_size(img_size=(128, 64))
        assert get_model_input_config(model)["input_size"] == (3, 128, 64)


@pytest.mark.recent  # Swin of an older timm cannot stop early
def test_intermediates_as_timms_own(build):
    """Which maps there are, in which order and of which shape. Indices mean the same."""
    ours, swin = build().eval(), THEIRS["swin"]().eval()
    x = images()
    for indices in (None, 2, [1], [-1, 0], (0, 1, 2)):
        for early in (False, True):
            found, expected = (m.forward_intermediates(x, indices, stop_early=early)[1] for m in (ours, swin))
            assert [m.shape[2:] for m in found] == [m.shape[2:] for m in expected]
            taken = sorted(feature_take_indices(3, indices)[0])
            assert [m.shape[1] for m in found] == [ours.feature_info[i]["num_chs"] for i in taken]
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, embed_dim=12, num_heads=1).eval()
    for n in (1, 2, [0, 2]):
        tokens, theirs = (m.get_intermediate_layers(x, n) for m in (ours, vit))
        maps, their_maps = (m.get_intermediate_layers(x, n, reshape=True) for m in (ours, vit))
        assert [t.ndim for t in tokens] == [t.ndim for t in theirs]
        assert [m.ndim for m in maps] == [m.ndim for m in their_maps]
        assert all(torch.equal(t, m.flatten(2).mT) for t, m in zip(tokens, maps, strict=True))
        assert all(torch.equal(t, m.flatten(2).mT) for t, m in zip(theirs, their_maps, strict=True))
        expected = ours.forward_intermediates(x, n, intermediates_only=True)
        assert all(torch.equal(m, e) for m, e in zip(maps, expected, strict=True))


@pytest.mark.parametrize("norm", [False, True])
def test_pruning_leaves_nothing_unused(build, norm):
    model = build(out_indices=(0, 1, 2))
    x = images()
    maps = model.eval().forward_intermediates(x, norm=norm, intermediates_only=True)
    for index in range(3):
        pruned = FeatureGetterNet(copy.deepcopy(model).train(), out_indices=(index,), norm=norm)
        (found,) = pruned.eval()(x)
        assert torch.equal(found, maps[index])
        (found,) = pruned.train()(x)
        found.sum().backward()
        assert not [name for name, p in pruned.named_parameters() if p.grad is None]
        if norm:
            (found,) = pruned.model.eval()(x)
            assert torch.equal(found, maps[index])
