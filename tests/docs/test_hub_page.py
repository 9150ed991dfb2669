"""The code of docs/hub.md runs as it is printed, with an untrained network in place of the trained one."""

import re

import numpy as np
import pytest
import torch
from command_line import ROOT
from PIL import Image

from quadtree_ssm import QuadMamba
from ssm_core.image_data import ImageData

pytestmark = [pytest.mark.needs("transformers"), pytest.mark.recent]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = QuadMamba(arch="nano", in_chans=1, num_classes=10)
    model.describe_images(ImageData((0.31,), (0.35,), (32, 32), classes=tuple("0123456789")))
    model.save_pretrained("digits")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 32), dtype=np.uint8)).save("photo.png")
    names = {}
    blocks = BLOCK.findall((ROOT / "docs" / "hub.md").read_text())
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "hub.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "'label': " in printed
    assert "[(1, 32, 8, 8), (1, 64, 4, 4), (1, 128, 2, 2), (1, 256, 1, 1)]" in printed
    assert "torch.Size([1, 8, 12, 64])" in printed
    assert "99.2" in (tmp_path / "folder" / "README.md").read_text()
