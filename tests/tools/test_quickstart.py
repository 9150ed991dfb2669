"""Tests a shortened tools/quickstart.py, which trains both models and draws what they saw."""

import re

import numpy as np
from command_line import load_tool
from PIL import Image

SHORT = """
_base_ = [{base!r}]
train_cfg = dict(max_epochs=1)
train_dataloader = dict(num_batch_per_epoch=2)
val_dataloader = dict(num_batch_per_epoch=1)
visualizer = dict(tensorboard=False)
"""


def spans(flags):
    """Return how many stretches of more than 100 pixels are drawn on; captions are smaller."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return int((ends[1::2] - ends[::2] > 100).sum())


def test_quickstart(tmp_path, monkeypatch, capsys):
    tool = load_tool("quickstart")
    short = {}
    for name, config in tool.MODELS.items():
        short[name] = tmp_path / f"{name}.py"
        short[name].write_text(SHORT.format(base=f"ssm_train::{config}.py"))
    monkeypatch.setattr(tool, "MODELS", short)
    tool.main(["--work-dir", str(tmp_path / "runs")])

    printed = capsys.readouterr().out
    figures = re.findall(r"^(\w+) +held-out top-1 (\d+\.\d\d) %  \(\d+ s\)$", printed, re.MULTILINE)
    assert [name for name, _ in figures] == ["QuadMamba", "MambaTreeV"]
    assert f"what the scans saw: {tmp_path / 'runs' / 'scans.png'}" in printed
    for folder in ("quadmamba", "mambatreev"):
        assert (tmp_path / "runs" / folder / "epoch_1.pth").is_file()
    curves, scans = (Image.open(tmp_path / "runs" / name) for name in ("curves.png", "scans.png"))
    assert curves.width > curves.height
    # There is a row for each of the four classes. There is a column for the images, and one for each block that chose.
    drawn = (np.asarray(scans.convert("RGB")) != 255).any(-1)
    assert spans(drawn.any(1)) == 4
    assert spans(drawn[300:].any(0)) > 2
