"""Tests of pretraining and fine-tuning by config, of resuming, and of the tools that lead from one to the other."""

import functools
import itertools
import json
import sys

import pytest
import torch
from command_line import CONFIGS, error_of, run
from mmengine.registry import DefaultScope
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_files import read_run

import tree_ssm
from ssm_core.weights import read_file
from ssm_train.apis.train import train
from ssm_train.registry import DATASETS
from ssm_train.runtime import checkpoints as checkpoint
from ssm_train.runtime.config import load_config
from ssm_train.runtime.trackers.backends import markdown
from tree_ssm.language import load_network, load_tokenizer

WIKI = CONFIGS / "mambatree_l" / "wiki"
TREE, LORA = WIKI / "mambatree-l-4m_alpaca-demo.py", WIKI / "mamba-4m-lora_alpaca-demo.py"
# mmengine shares loggers between runs that have the same name and start in the same second.
NUMBER = itertools.count()
QUIET = ("visualizer.tensorboard=False", "default_hooks.curves.plot=False", "log_level=ERROR",
         "default_hooks.samples.count=0")  # fmt: skip


# This template replaces the configs' template, which mmengine takes seconds to format for the log.
TEMPLATE = ("template.with_input=Q {instruction} / {input} A ", "template.without_input=Q {instruction} A ")


def data_options(folder, *parts):
    return [*(f"rows.{line}" for line in TEMPLATE)] + [
        f"{part}_dataloader.{key}"
        for part in parts
        for key in ("num_workers=0", f"dataset.path={folder / 'rows.json'}", *(f"dataset.{line}" for line in TEMPLATE),
                    f"dataset.tokenizer.path={folder / 'pretrained'}", "batch_size=4")
    ]  # fmt: skip


def tuning(folder, *options):
    return [
        f"experiment_name=lm{next(NUMBER)}", f"model.backbone.path={folder / 'pretrained'}", *QUIET,
        *data_options(folder, "train", "val", "test"), "train_dataloader.num_batch_per_epoch=4",
        "param_scheduler.0.end=2", "optim_wrapper.dtype=float32", "optim_wrapper.optimizer.lr=0.01",
        "default_hooks.checkpoint.max_keep_ckpts=9", *options,
    ]  # fmt: skip


def trained(config, work_dir, options, **settings):
    cfg = load_config(config, options)
    cfg.work_dir = str(work_dir)
    object.__setattr__(cfg, "_format_python_code", False)  # formatting would take a second per run
    return train(cfg, **settings)


def held_out(config, options):
    with DefaultScope.overwrite_default_scope("ssm_train"):
        return DATASETS.build(load_config(config, options).val_dataloader.dataset)


def state(work_dir, name=None):
    path = checkpoint.pointed(work_dir) if name is None else work_dir / name
    return read_file(path)


@pytest.fixture(scope="module")
def tuned(lm_folder, tmp_path_factory):
    """Train MambaTree-L for two epochs; an update sums the gradients of two batches. Return work folder and result."""
    path = tmp_path_factory.mktemp("tuned")
    options = tuning(lm_folder, "train_cfg.max_epochs=2", "optim_wrapper.accumulative_counts=2")
    return path, trained(TREE, path, [*options, "model.backbone.gradient_checkpointing=True"])


def test_adapters_alone_are_trained_and_learn(lm_folder, tuned):
    path, result = tuned
    pretrained = load_network(str(lm_folder / "pretrained")).state_dict()
    weights = state(path)["state_dict"]
    adapters = [name for name in weights if "lora_" in name]
    assert len(adapters) == 2 * (1 + 3 * 2)
    for name, value in weights.items():
        plain = name.removeprefix("backbone.base_model.model.").replace(".base_layer", "")
        if "lora_" not in name:
            assert torch.equal(value, pretrained[plain]), name
    values = [point["perplexity"] for point in result.curves["val"]]
    assert values[1] < values[0]
    assert (path / "best_perplexity_epoch_2.pth").exists()
    assert result.best("perplexity", lowest=True) == (values[1], 2)


def test_resumed_equals_uninterrupted(lm_folder, tuned, tmp_path):
    path, _ = tuned
    options = ["optim_wrapper.accumulative_counts=2", "model.backbone.gradient_checkpointing=True"]
    trained(TREE, tmp_path, tuning(lm_folder, "train_cfg.max_epochs=1", *options))
    trained(TREE, tmp_path, tuning(lm_folder, "train_cfg.max_epochs=2", *options), resume=True)
    resumed, whole = state(tmp_path), state(path)
    assert resumed["meta"]["iter"] == whole["meta"]["iter"] == 8
    assert all(torch.equal(resumed["state_dict"][name], value) for name, value in whole["state_dict"].items())


def test_resumed_with_larger_batches_makes_the_same_updates(lm_folder, tuned, tmp_path):
    path, _ = tuned
    larger = ["train_dataloader.batch_size=8", "train_dataloader.num_batch_per_epoch=2"]
    options = tuning(lm_folder, "train_cfg.max_epochs=2", *larger, "model.backbone.gradient_checkpointing=True")
    trained(TREE, tmp_path, [*options, "optim_wrapper.accumulative_counts=1"], resume=path / "epoch_1.pth",
            keep_updates=True)  # fmt: skip
    resumed, whole = state(tmp_path), state(path)
    assert resumed["meta"]["iter"] == whole["meta"]["iter"] == 8
    assert all(torch.equal(resumed["state_dict"][name], value) for name, value in whole["state_dict"].items())


def test_perplexity_of_the_config_is_that_of_the_model(lm_folder, tmp_path, capsys):
    """Compares tools/test.py without a checkpoint with losses that are computed row by row."""
    config = WIKI / "mamba-4m_alpaca-demo.py"
    options = [f"experiment_name=lm{next(NUMBER)}", f"model.backbone.path={lm_folder / 'pretrained'}", *QUIET]
    options += data_options(lm_folder, "val", "test")
    assert run("test", config, "--work-dir", tmp_path, "--cfg-options", *options) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    rows = load_config(config, options).test_dataloader.dataset
    network = load_network(str(lm_folder / "pretrained"), tree_scale=0.0).eval()
    tokenizer = load_tokenizer(str(lm_folder / "pretrained"))
    total = tokens = 0
    for row in json.loads((lm_folder / "rows.json").read_text())[9::10]:
        text = rows.template["with_input" if row["input"] else "without_input"]
        prompt = tokenizer.encode(text.format(**{k: row[k] for k in ("instruction", "input")}))
        response = [*tokenizer.encode(row["output"]), tokenizer.eos_token_id]
        ids = torch.tensor([prompt + response])
        log_p = network(ids).logits[0].detach().log_softmax(-1)
        total -= sum(float(log_p[len(prompt) - 1 + i, t]) for i, t in enumerate(response))
        tokens += len(response)
    assert printed == f"perplexity {torch.tensor(total / tokens).exp():.2f}"


def test_merged_folder_has_the_perplexity_of_the_run(lm_folder, tuned, tmp_path, capsys):
    path, result = tuned
    options = tuning(lm_folder)
    assert run("merge_adapters", TREE, path / "epoch_2.pth", tmp_path / "merged", "--cfg-options", *options) == 0
    base = [f"experiment_name=lm{next(NUMBER)}", f"model.backbone.path={tmp_path / 'merged'}", *QUIET]
    base += [*data_options(lm_folder, "val", "test"), "model.backbone.tree_scale=0.3"]
    harness = "default_hooks.harness.evaluate"
    base += [f"{harness}.tasks=response_choice", f"{harness}.limit=2", f"{harness}.path={lm_folder / 'rows.json'}"]
    assert run("test", WIKI / "mamba-4m_alpaca-demo.py", "--work-dir", tmp_path, "--cfg-options", *base) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    figures = dict(part.rsplit(" ", 1) for part in printed.split(", "))
    assert float(figures["perplexity"]) == pytest.approx(result.last("perplexity"), abs=0.01)
    assert float(figures["response_choice/acc"]) in (0.0, 0.5, 1.0)


def test_from_a_text_file_to_a_pretrained_folder(lm_folder, tmp_path, capsys):
    text = lm_folder / "text.txt"
    assert run("train_tokenizer", tmp_path / "tokenizer", text, "--vocab-size", 280) == 0
    assert "280 tokens" in capsys.readouterr().out
    options = [
        f"experiment_name=lm{next(NUMBER)}", *QUIET, "optim_wrapper.dtype=float32", "train_cfg.max_epochs=2",
        "param_scheduler.1.end=2", f"model.backbone.tokenizer={tmp_path / 'tokenizer'}",
        "model.backbone.hidden_size=16", "model.backbone.num_hidden_layers=1",
    ]  # fmt: skip
    for part in ("train", "val", "test"):
        options += [f"{part}_dataloader.num_workers=0", f"{part}_dataloader.batch_size=4"]
        options += [f"{part}_dataloader.dataset.{key}" for key in (f"path={text}", "length=32")]
        options += [f"{part}_dataloader.dataset.tokenizer.path={tmp_path / 'tokenizer'}"]
    options += ["train_dataloader.persistent_workers=False", "train_dataloader.num_batch_per_epoch=6"]
    options += ["default_hooks.samples.count=1", "default_hooks.samples.opening=6"]
    config = WIKI / "mamba-4m_wiki.py"
    assert run("train", config, "--work-dir", tmp_path / "run", "--cfg-options", *options) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    assert printed.startswith("perplexity ")
    block = held_out(config, options)
    [table] = (tmp_path / "run").glob("*/vis_data/vis_text/samples_12.md")
    prompt = table.read_text().splitlines()[2].removeprefix("| ").split(" | ")[0]
    opening = block.tokenizer.decode(block[0]["inputs"][:6], skip_special_tokens=True)
    assert markdown([], [[opening]]).splitlines()[-1] == f"| {prompt} |"
    assert (
        run("merge_adapters", config, tmp_path / "run" / "epoch_2.pth", tmp_path / "out", "--cfg-options", *options)
        == 0
    )
    network = load_network(str(tmp_path / "out"))
    assert network.config.tree_scale == 0.0
    weights = state(tmp_path / "run")["state_dict"]
    assert all(torch.equal(weights[f"backbone.{name}"], value) for name, value in network.state_dict().items())
    assert (
        load_tokenizer(str(tmp_path / "out")).decode(load_tokenizer(str(tmp_path / "out")).encode("ten äß")) == "ten äß"
    )


def test_a_missing_package_is_one_line(lm_folder, tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("tree_ssm.language", "transformers"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(tree_ssm, "language", None, raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    words = 'which is not installed: `make setup` has it, or run `pip install "dist/FILE.whl[lm]"` ('
    words += "`make wheel` makes the file)"
    line = error_of(capsys, "train", TREE, "--work-dir", tmp_path)
    assert line.startswith("error: tree_ssm.language.load_")
    assert line.endswith(f" needs transformers, {words}")
    line = error_of(capsys, "train_tokenizer", tmp_path / "t", lm_folder / "text.txt")
    assert line == f"error: this tool needs transformers, {words}"


def test_bad_input_is_one_line(lm_folder, tmp_path, capsys):
    def fails(tool, *arguments, config=TREE):
        return error_of(capsys, tool, config, *arguments)

    rows = json.loads((lm_folder / "rows.json").read_text())
    rows[7]["output"] = ""
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    options = tuning(lm_folder, "train_dataloader.dataset.faulty=raise")
    options += [f"train_dataloader.dataset.path={tmp_path / 'rows.json'}"]
    line = fails("train", "--work-dir", tmp_path, "--cfg-options", *options)
    name = f"row 7 of {tmp_path / 'rows.json'} (line 1)"
    assert line == f"error: {name} has no response; faulty='skip' leaves such rows out"
    options = tuning(lm_folder, f"model.backbone.path={tmp_path / 'nothing'}")
    assert f"there is no folder {tmp_path / 'nothing'}" in fails(
        "train", "--work-dir", tmp_path, "--cfg-options", *options
    )
    base = WIKI / "mamba-4m_alpaca-demo.py"
    options = [f"experiment_name=lm{next(NUMBER)}", f"model.backbone.path={lm_folder / 'pretrained'}", *QUIET]
    options += data_options(lm_folder, "val", "test")
    assert "there is nothing to train" in fails("train", "--work-dir", tmp_path, "--cfg-options", *options, config=base)
    no_file = "default_hooks.harness.evaluate.tasks=response_choice"
    line = fails("test", "--work-dir", tmp_path, "--cfg-options", *options, no_file, config=base)
    assert "the task response_choice reads a local file of rows: set path to one, None is no file" in line
    pretraining = WIKI / "mamba-4m_wiki.py"
    assert "there are no weights to test: name a checkpoint" in fails("test", config=pretraining)
    assert "there is no data file" in error_of(capsys, "train_tokenizer", tmp_path / "t", tmp_path / "no.txt")
    line = error_of(capsys, "train_tokenizer", tmp_path / "t", lm_folder / "text.txt", "--vocab-size", 100)
    assert "vocab_size must be at least 258" in line
    digits = CONFIGS / "resnet" / "resnet18_digits.py"
    assert "describes no language model" in fails("merge_adapters", "x.pth", tmp_path, config=digits)


@pytest.fixture(scope="module")
def told(lm_folder, tmp_path_factory):
    """Train with TensorBoard and Weights & Biases, and return the folder in which they wrote."""
    path = tmp_path_factory.mktemp("told")
    options = tuning(
        lm_folder, "train_cfg.max_epochs=1", "default_hooks.samples.count=3", "default_hooks.samples.new_tokens=5"
    )
    options = [*options, "visualizer.tensorboard=True", "visualizer.wandb=True"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WANDB_MODE", "offline")
        environment.setenv("WANDB_SILENT", "true")
        trained(LORA, path, options)
    return next(path.glob("*/vis_data"))


def test_texts_are_shown_during_training(lm_folder, told):
    dataset = held_out(LORA, tuning(lm_folder))
    decode = functools.partial(dataset.tokenizer.decode, skip_special_tokens=True)
    _, _, history, _ = read_run(next(told.glob("wandb/offline-run-*/run-*.wandb")))
    [(step, media)] = history["samples/path"]
    assert step == 4
    table = json.loads((next(told.glob("wandb/offline-run-*/files")) / media).read_text())
    assert table["columns"] == ["prompt", "answer", "reference"]
    assert len(table["data"]) == 3
    for (prompt, answer, reference), sample in zip(table["data"], dataset, strict=False):
        tokens, context_len = sample["inputs"], sample["data_samples"]["context_len"]
        assert (prompt, reference) == (decode(tokens[:context_len]), decode(tokens[context_len:][:5]))
        assert 0 < len(answer) < 5 * 20
    local = (told / "vis_text" / "samples_4.md").read_text()
    assert local == markdown(table["columns"], table["data"])
    events = EventAccumulator(str(told)).Reload().Tensors("samples/text_summary")
    assert [(e.step, e.tensor_proto.string_val[0].decode()) for e in events] == [(4, local)]
