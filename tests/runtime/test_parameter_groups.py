"""Groups of parameters by parts of their names: rates, weight decay, and what is not trained."""

import itertools

import pytest
import runs
import torch
from hostile import good_lines
from mmengine.optim import build_optim_wrapper
from torch import nn

from ssm_core.errors import ConfigError
from ssm_train.runtime.custom_keys import freeze

RATE, DECAY = 1e-3, 0.05
MIXER = "backbone.base_model.model.backbone.layers.0.mixer"


class Small(nn.Module):
    """Has convolutions, norms with and without a bias, and a weight that two modules share."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 1), "norm": nn.GroupNorm(1, 4)})
        self.backbone["blocks"] = nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4, bias=False)])
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight


def build(model, constructor="ssm_train.TimmOptimWrapperConstructor", **paramwise):
    optimizer = dict(type="AdamW", lr=RATE, weight_decay=DECAY)
    cfg = dict(type="OptimWrapper", constructor=constructor, optimizer=optimizer, paramwise_cfg=paramwise)
    return build_optim_wrapper(model, cfg)


def settings(model, wrapper):
    """Rate and weight decay of each trained parameter by its name, in the units of the optimizer's own."""
    found = {}
    for group in wrapper.optimizer.param_groups:
        for parameter in group["params"]:
            found[parameter] = round(group["lr"] / RATE, 9), round(group["weight_decay"] / DECAY, 9)
    return {name: found[parameter] for name, parameter in model.named_parameters() if parameter in found}


def test_the_same_key_is_meant_as_in_mmengine():
    """Compares with mmengine, with keys of all lengths and of the same length, whose rules are all in the keys."""
    parts = ("backbone", "stem", "norm", "bias", "blocks.0", "weight", "e", ".blocks")
    values = itertools.cycle([dict(lr_mult=0.1, decay_mult=2.0), dict(lr_mult=3.0, decay_mult=0.0)])
    for keys in itertools.chain(itertools.combinations(parts, 2), itertools.combinations(parts, 3)):
        custom = {key: {**next(values), "lr_mult": 1.0 + number} for number, key in enumerate(keys)}
        ours, theirs = Small(), Small()
        expected = build(theirs, "DefaultOptimWrapperConstructor", custom_keys=custom, bypass_duplicate=True)
        wrapper = build(ours, custom_keys=custom, no_decay_keys=[])
        assert settings(ours, wrapper) == settings(theirs, expected), custom


def test_a_key_changes_what_it_names_and_nothing_else():
    model = Small()
    found = settings(
        model, build(model, custom_keys={"backbone": dict(lr_mult=0.1), "backbone.blocks": dict(decay_mult=2.0)})
    )
    assert found == {
        "backbone.stem.weight": (0.1, 1.0),
        "backbone.stem.bias": (0.1, 0.0),  # biases and norms still do not decay
        "backbone.norm.weight": (0.1, 0.0),
        "backbone.norm.bias": (0.1, 0.0),
        "backbone.blocks.0.weight": (1.0, 2.0),
        "backbone.blocks.0.bias": (1.0, 2.0),
        "backbone.blocks.1.weight": (1.0, 2.0),
        "embedding.weight": (1.0, 1.0),
    }
    # The shared weight has both of its names.
    assert settings(model, build(model, custom_keys={"head": dict(lr_mult=5.0)}))["embedding.weight"] == (5.0, 1.0)


def test_a_factor_takes_the_place_of_layer_decay():
    from quadtree_ssm import QuadMamba

    model = QuadMamba(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=3)
    plain = settings(model, build(model, layer_decay=0.5))
    keyed = settings(model, build(model, layer_decay=0.5, custom_keys={"stages.1": dict(lr_mult=0.7)}))
    assert plain["stem.conv1.weight"][0] < 0.1
    for name, (rate, decay) in keyed.items():
        assert (rate, decay) == (0.7 if "stages.1" in name else plain[name][0], plain[name][1])


def test_frozen_parameters_are_not_in_the_optimizer():
    model = Small()
    custom = {"backbone": dict(frozen=True), "backbone.norm": {}, "embedding": dict(lr_mult=2.0)}
    found = settings(model, build(model, custom_keys=custom))
    assert found == {
        "backbone.norm.weight": (1.0, 0.0), "backbone.norm.bias": (1.0, 0.0), "embedding.weight": (2.0, 1.0)
    }  # fmt: skip
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == set(
        dict(Small().named_parameters())
    ) - set(found)
    assert freeze(model, custom) == [model.backbone["stem"], model.backbone["blocks"]]


def test_the_log_says_how_much_is_frozen(lines):
    model = Small()
    model.backbone["stem"].weight.requires_grad_(False)  # as frozen_stages does
    build(model)
    total = sum(p.numel() for p in model.parameters())
    assert lines == [f"{model.backbone['stem'].weight.numel():,} of {total:,} parameters are frozen"]
    model.backbone["stem"].weight.requires_grad_(True)
    build(model)
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("custom", "words"),
    [
        (
            {"bakbone": dict(lr_mult=0.1)},
            r"has 'bakbone', which is a part of no parameter's name \(did you mean 'backbone'",
        ),
        ({"backbone.stm": dict(frozen=True)}, r"'backbone.stm', .* \(did you mean 'backbone.stem'"),
        ({"stem": dict(frozen=True, lr_mult=0.1)}, "stem has frozen=True and lr_mult"),
        ({"backbone": dict(frozen=True), "e": dict(frozen=True)}, "there is nothing to train: every parameter"),
    ],
)
def test_what_cannot_be_meant_is_refused(custom, words):
    with pytest.raises(ConfigError, match=words):
        build(Small(), custom_keys=custom)


def test_a_factor_for_frozen_parameters_alone_is_refused():
    model = Small()
    model.backbone.requires_grad_(False)
    with pytest.raises(ConfigError, match="'stem', which is for frozen parameters alone"):
        build(model, custom_keys={"stem": dict(lr_mult=0.1)})


def weights_of(path, name, *options):
    """Write the weights with which a run begins, and return them."""
    from mmengine.registry import MODELS, DefaultScope

    torch.manual_seed(5)
    with DefaultScope.overwrite_default_scope("ssm_train"):
        model = MODELS.build(runs.configure(name, path.parent, *options).model)
    torch.save({"state_dict": model.state_dict()}, path)
    return model.state_dict()


def keys_option(**custom):
    return f"optim_wrapper.paramwise_cfg={dict(custom_keys=custom)}"


def test_two_processes_train_what_is_not_frozen(tmp_path):
    """A stage is frozen by the backbone and the blocks of another one by a key, and the weights are averaged."""
    config = (*runs.QUADMAMBA, "model.backbone.frozen_stages=1")
    before = weights_of(tmp_path / "start.pth", *config)
    custom = keys_option(**{"stages.1.blocks": dict(frozen=True), "backbone.head": dict(lr_mult=2.0)})
    options = [*config, custom, f"load_from={tmp_path / 'start.pth'}", "train_cfg.max_epochs=1"]
    port = runs.free_port()
    ranks = [
        runs.start(runs.train_distributed, tmp_path / str(rank), options[0], tmp_path / "run", rank, 2, port,
                   *options[1:], hooks=[runs.EMA])
        for rank in range(2)
    ]  # fmt: skip
    for rank, process in enumerate(ranks):
        runs.finish(process, tmp_path / str(rank))
    state = runs.last_state(tmp_path / "run")
    frozen = ("backbone.stem.", "backbone.stages.0.", "backbone.stages.1.blocks.")
    for name, value in before.items():
        if name.startswith(frozen):
            assert torch.equal(state["state_dict"][name], value), name  # the average
            assert torch.equal(state["ema_state_dict"][f"module.{name}"], value), name
    moved = [name for name, value in before.items() if not torch.equal(state["state_dict"][name], value)]
    assert {"backbone.stages.1.downsample.conv.weight", "backbone.head.fc.weight"} <= set(moved)
    assert not any(name.startswith(frozen) for names in state["parameter_groups"]["names"] for name in names)


def test_frozen_batch_norms_keep_their_statistics(tmp_path):
    config = ("resnet/resnet18_digits.py", "model.backbone.name=test_efficientnet")
    before = weights_of(tmp_path / "start.pth", *config)
    custom = keys_option(**{"conv_stem": dict(frozen=True), "bn1": dict(frozen=True), "blocks.0": dict(frozen=True)})
    options = [*config, custom, f"load_from={tmp_path / 'start.pth'}", "train_cfg.max_epochs=1"]
    runs.call(runs.train, tmp_path / "log", options[0], tmp_path / "run", *options[1:])
    after = runs.last_state(tmp_path / "run")["state_dict"]
    assert torch.equal(after["backbone.bn1.running_mean"], before["backbone.bn1.running_mean"])
    assert torch.equal(after["backbone.blocks.0.0.bn1.weight"], before["backbone.blocks.0.0.bn1.weight"])
    assert not torch.equal(after["backbone.bn2.running_mean"], before["backbone.bn2.running_mean"])


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Return a config of every task with the options of a training of one or two iterations."""
    folder = tmp_path_factory.mktemp("tasks")
    good_lines.make_data(folder)
    return good_lines.trainings(folder)


@pytest.mark.parametrize(
    ("config", "frozen", "trained"),
    [
        (good_lines.CLASSIFICATION, "backbone.stages", "backbone.head.fc.weight"),
        (good_lines.DETECTION, "backbone", "roi_head.bbox_head.fc_cls.weight"),
        (good_lines.SEGMENTATION, "backbone", "decode_head.conv_seg.weight"),
        (
            good_lines.LANGUAGE,
            "lora_A",
            "backbone.base_model.model.backbone.layers.0.mixer.x_proj.lora_B.default.weight",
        ),
    ],
    ids=["classification", "detection", "segmentation", "language"],
)
def test_every_task_freezes_by_a_key(trainings, tmp_path, config, frozen, trained):
    custom = {frozen: dict(frozen=True), trained.rpartition(".")[0]: dict(lr_mult=3.0)}
    options = [*trainings[config], keys_option(**custom), "experiment_name=frozen"]
    runs.call(train_alone, tmp_path / "log", config, tmp_path / "run", options)
    state = runs.last_state(tmp_path / "run")
    names = {name for group in state["parameter_groups"]["names"] for name in group}
    assert trained in names
    assert not any(frozen in name for name in names)


def train_alone(config, work_dir, options):
    from ssm_train.apis import train
    from ssm_train.runtime.config import load_config

    cfg = load_config(config, options)
    cfg.work_dir = str(work_dir)
    object.__setattr__(cfg, "_format_python_code", False)  # formatting would take a second per run
    train.train(cfg)


def test_a_rate_for_what_an_adapted_language_model_does_not_train(trainings):
    """LoRA freezes all but its adapters."""
    from mmengine.registry import MODELS, DefaultScope

    from ssm_train.runtime.config import load_config

    with DefaultScope.overwrite_default_scope("ssm_train"):
        model = MODELS.build(load_config(good_lines.LANGUAGE, trainings[good_lines.LANGUAGE]).model)
    with pytest.raises(ConfigError, match="'A_log', which is for frozen parameters alone"):
        build(model, custom_keys={"A_log": dict(lr_mult=0.1)})
    found = settings(model, build(model, custom_keys={"lora_B": dict(lr_mult=16.0)}))
    assert {rate for name, (rate, _) in found.items() if "lora_B" in name} == {16.0}
    assert {rate for name, (rate, _) in found.items() if "lora_B" not in name} == {1.0}
