"""Tests that the worked examples of docs/extend run as they are printed."""

import re
import runpy
import shlex
import sys

import pytest
from command_line import ROOT

from ssm_train.commands import program

pytestmark = pytest.mark.filterwarnings("ignore:.*faster_coco_eval")
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
# The earlier pages whose files each page needs.
PAGES = {"scan_order": (), "backbone": ("scan_order",), "dataset": ()}


def blocks(page):
    return BLOCK.findall((ROOT / "docs" / "extend" / f"{page}.md").read_text())


def write_files(page, folder):
    """Write a page's code blocks that have a file name into a folder."""
    for _, title, text in blocks(page):
        if title:
            (folder / title).parent.mkdir(exist_ok=True)
            (folder / title).write_text(text)


def execute(line):
    """Execute a shell line. It is ``export PYTHONPATH=mine``, a command of ``tree-ssm``, or a script of ``python``."""
    if line == "export PYTHONPATH=mine":
        assert "mine" in sys.path[0]
        return
    called, *arguments = shlex.split(line)
    if called == "tree-ssm":
        assert program.main(arguments) == 0
    else:
        assert called == "python"
        runpy.run_path(arguments[0], run_name="__main__")


@pytest.mark.parametrize("page", PAGES)
def test_example(page, tmp_path, monkeypatch, capsys):
    for needed in (*PAGES[page], page):
        write_files(needed, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "mine")
    before = set(sys.modules)
    try:
        commands = [text for language, title, text in blocks(page) if language == "bash" and not title]
        assert commands
        for line in "".join(commands).splitlines():
            execute(line)
    finally:
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
                del sys.modules[name]
    printed = capsys.readouterr().out
    expected = {
        "scan_order": ["the order and its gradient are right"],
        "backbone": [
            "logits and maps have the right shapes",
            "best",
            "/work_dirs/snakenet\n",
            "GFLOPs",
        ],
        "dataset": ["best", "/work_dirs/crops\n"],
    }
    assert all(words in printed for words in expected[page]), printed
    if page == "dataset":
        assert len(list((tmp_path / "seen").glob("*_class[01].png"))) > 1
