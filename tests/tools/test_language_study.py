"""Tests tools/language_study.py from a text to the table, with only one way of fine-tuning and one seed."""

import json
import re

import pytest
from command_line import load_tool

from ssm_core.errors import UserError

SENTENCES = "The river carries water to the sea. Trees along the river drink from it. "
QUIET = ["visualizer.tensorboard=False", "default_hooks.curves.plot=False", "default_hooks.samples.count=0"]
WITHIN = ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False", "val_dataloader.num_workers=0"]
SHORT = [*QUIET, *WITHIN, "train_cfg.max_epochs=1", "optim_wrapper.dtype=float32", "train_dataloader.batch_size=4"]


@pytest.fixture
def arguments(tmp_path):
    text, rows = tmp_path / "text.txt", tmp_path / "rows.json"
    text.write_text(SENTENCES * 60)
    row = {"instruction": "Where does the river go?", "input": "", "output": "To the sea."}
    rows.write_text(json.dumps([row] * 20))
    small = ["model.backbone.hidden_size=16", "model.backbone.num_hidden_layers=1"]
    small += [f"{split}_dataloader.dataset.length=32" for split in ("train", "val", "test")]
    return [
        "--text", text, "--rows", rows, "--work-dir", tmp_path / "study", "--seeds", 3, "--vocab-size", 280,
        "--pretraining-options", *SHORT, *small, "--tuning-options", *SHORT, "train_dataloader.num_batch_per_epoch=2",
    ]  # fmt: skip


def test_from_a_text_to_the_table(arguments, quick_python, tmp_path, monkeypatch, capsys):
    tool = load_tool("language_study")
    monkeypatch.setattr(tool, "TUNINGS", {"MambaTree-L": tool.TUNINGS["MambaTree-L"]})
    tool.main(list(map(str, arguments)))
    printed = capsys.readouterr().out
    steps = [r"280 tokens, .*", r"pretraining: .*", r"as pretrained: \d+\.\d\d", r"MambaTree-L, seed 3: .*", ""]
    table = [r"held-out perplexity +mean +sd", r"as pretrained +\d+\.\d{3} ", r"MambaTree-L +\d+\.\d{3} "]
    assert re.fullmatch("\n".join([*steps, *table, ""]), printed), printed

    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert results["seeds"] == [3]
    curves = json.loads((tmp_path / "study" / "mambatree-l_seed3" / "curves.json").read_text())
    assert results["MambaTree-L"] == [curves["val"][-1]["perplexity"]]
    assert f"as pretrained: {results['as pretrained'][0]:.2f}" in printed


def test_a_tool_that_fails(arguments, tmp_path, capfd):
    arguments[arguments.index("--vocab-size") + 1] = 7
    with pytest.raises(UserError, match=r"train-tokenizer .* failed with exit status 1$"):
        load_tool("language_study").main(list(map(str, arguments)))
    assert "vocab_size must be at least 258" in capfd.readouterr().err
    assert not (tmp_path / "study" / "tokenizer").exists()
