"""Every command that the pages tell their readers to paste is one: program, switches, files and configs are there."""

import argparse
import importlib.util
import re
import sys
from pathlib import Path
from unittest import mock

import pytest
import yaml
from command_line import ROOT, load_tool
from page_commands import commands_of, inline_of, pages, split

from ssm_train.commands import program
from ssm_train.runtime.config import load_config
from ssm_train.runtime.config_files import find_config, is_config

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PROGRAMS = Path(sys.executable).parent  # the environment that runs the tests
# They come with the system or with what a page tells to install before, or are of the shell.
ELSEWHERE = {
    "apt-get",
    "cd",
    "compute-sanitizer",
    "docker",
    "export",
    "git",
    "mkdir",
    "nvidia-smi",
    "pip",
    "source",
    "trtexec",
    "uv",
}
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|\$[A-Z]+|…|\.\.\.")  # CONFIG, CKPT: the reader's own
OWN_FILES = ("mine/", "my-")  # files that a page tells to write; test_extending.py runs those in mine/


def workflow_commands():
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for step in job["steps"]:
                yield from split(step.get("run", ""))


COMMANDS = sorted({*commands_of(pages()), *workflow_commands()})
ABOUT = ("--help", "--version")
OURS = [words[1:] for words in COMMANDS if words[0] == "tree-ssm" and words[1] not in ABOUT]
INLINE = [words[1:] for words in inline_of(pages(), "tree-ssm") if words[1] not in ABOUT]


def name_of(words):
    """The command in words after ``tree-ssm``, and the words after that."""
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in program.COMMANDS), None)
    assert name, f"there is no command tree-ssm {' '.join(words)}"
    return name, list(words[len(name.split()) :])


def check_ours(words):
    """Its arguments are parsed, and its configs exist and take its options."""
    name, arguments = name_of(words)
    args = load_tool(program.COMMANDS[name].module).parse_arguments(arguments)
    given = [word for word in arguments if re.match(r"(quadmamba|mambatree|mambatree_l|resnet|configs)/", word)]
    configs = [word for word in given if not any(own in word for own in OWN_FILES)]
    for config in configs:
        find_config(config)
    options = [option for option in getattr(args, "cfg_options", []) if not re.search(r"[A-Z]{3}", option)]
    if options and configs:
        load_config(configs[0], options)


def exists(words, folder=ROOT):
    """Whether the program of a command is there, and the files of this repository that it names."""
    first, *rest = words
    if first == "make":
        targets = {word for word in rest if "=" not in word}
        return bool(targets) and targets <= TARGETS
    if first in ("python", ".venv/bin/python") and rest[0] == "-m":
        return rest[1] in ELSEWHERE or importlib.util.find_spec(rest[1]) is not None
    files = [word for word in words if word.startswith(("tests/", "tools/", "requirements/", "dev/"))]
    if not all((folder / word.partition("::")[0]).exists() for word in files):
        return False
    if first in ("python", ".venv/bin/python"):
        return rest[0] == "-c" or rest[0].startswith(OWN_FILES) or (folder / rest[0]).is_file()
    return first in (*ELSEWHERE, *files) or (PROGRAMS / first.removeprefix(".venv/bin/")).exists()


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_command(words):
    check_ours(words)


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] != "tree-ssm"], ids=" ".join)
def test_command_of_another_program(words):
    assert exists(words), words
    if words[0] == "torchrun":
        check_ours(words[words.index("tree-ssm") + 1 :])
    tools = [word for word in words if re.fullmatch(r"tools/[\w/]+\.py", word)]
    parse = getattr(load_tool(tools[0][6:-3]), "parse_arguments", None) if tools else None
    if parse:
        parse(list(words[words.index(tools[0]) + 1 :]))


@pytest.mark.parametrize("words", INLINE, ids=" ".join)
def test_command_within_a_sentence(words):
    """The command exists, and its help has the switches; arguments may be left out."""
    if PLACEHOLDER.fullmatch(words[0]):
        return
    if any(name.startswith(f"{words[0]} ") for name in program.COMMANDS) and len(words) == 1:
        return
    name, arguments = name_of(words)
    help_text = help_of(name)
    for switch in (word.partition("=")[0] for word in arguments if word.startswith("--")):
        assert re.search(rf"{switch}\b", help_text), f"tree-ssm {name} has no {switch}"


def help_of(name):
    """The help of a command and of all its subcommands."""
    texts = []

    def keep(self, *_, **__):
        texts.append(self.format_help())
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                texts.extend(part.format_help() for part in action.choices.values())
        raise SystemExit(0)

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", keep), pytest.raises(SystemExit):
        load_tool(program.COMMANDS[name].module).parse_arguments([])
    return "".join(texts)


def test_pages_write_every_command_one_way():
    """``tree-ssm COMMAND``, and ``python`` for files; which environment is active is said once, where it is made."""
    for path in pages():
        text = path.read_text()
        assert not re.search(r"\.venv/bin/(?!activate)", text), path
        for module in {command.module for command in program.COMMANDS.values()}:
            assert not re.search(rf"tools/(analysis/)?{module}\.(py|sh)\b", text), (path, module)


def test_there_are_commands():
    assert len(OURS) > 40
    assert len(INLINE) > 30
    named = {name_of(words)[0] for words in OURS}
    assert {"train", "test", "infer", "export", "dist-train", "slurm-train", "ablate", "doctor"} <= named


@pytest.mark.parametrize("words", [w for w in OURS if name_of(w)[0] == "analyse print-config"], ids=" ".join)
def test_cheap_commands_run(words, tmp_path, monkeypatch, capsys):
    """From an empty folder, where names of configs are all there is."""
    monkeypatch.chdir(tmp_path)
    assert is_config(words[-1])
    assert program.main(list(words)) == 0
    assert "model = dict(" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_the_config_of_own_images(page, tmp_path, monkeypatch):
    """It is complete as printed, in a folder where nothing else is."""
    (text,) = re.findall(r'^```python title="my-images.py"\n(.*?)^```$', (ROOT / page).read_text(), re.DOTALL | re.M)
    monkeypatch.chdir(tmp_path)
    Path("my-images.py").write_text(text)
    cfg = load_config("my-images.py")
    roots = [cfg[f"{split}_dataloader"].dataset.root for split in ("train", "val", "test")]
    assert roots == ["data/images"] * 3
    assert cfg.model.backbone.num_classes == 10
