"""The program ``tree-ssm``: it finds the command of a command line and calls it."""

import importlib
import re
import sys
from typing import NamedTuple

from ssm_core import __version__
from ssm_core.errors import nearest
from ssm_train.apis import cli


class Command(NamedTuple):
    """A command.

    Attributes:
        module: its module within ``ssm_train.commands``.
        words: what it does.
    """

    module: str
    words: str


# By what the user wants, in the order of the help.
GROUPS = {
    "train and test": {
        "train": Command("train", "train the model of a config"),
        "test": Command("test", "evaluate a checkpoint on the test set of a config"),
        "dist-train": Command("dist_train", "train in several processes, one a GPU"),
        "dist-test": Command("dist_test", "evaluate in several processes"),
        "slurm-train": Command("slurm_train", "submit a training to Slurm"),
        "ablate": Command("ablate", "train every combination of a grid of settings, and compare them"),
        "quickstart": Command("quickstart", "train a small model of both families on digits"),
        "language-study": Command("language_study", "fine-tune a small language model with and without the tree"),
    },
    "data": {
        "prepare-data": Command("prepare_data", "put a dataset where the configs look for it"),
        "train-tokenizer": Command("train_tokenizer", "learn a tokenizer from text files"),
        "analyse browse-dataset": Command("browse_dataset", "draw what a model is trained on"),
    },
    "use what was trained": {
        "infer": Command("infer", "run a trained model on images, and draw what it finds"),
        "export": Command("export", "write a trained model for torch.export, AOTInductor or ONNX"),
        "explore": Command("explore", "serve a page to look into models with"),
        "convert": Command("convert_checkpoint", "convert a checkpoint that the authors released"),
        "publish": Command("publish_checkpoint", "make a checkpoint ready to publish"),
        "merge-adapters": Command("merge_adapters", "write a trained language model as a folder of transformers"),
    },
    "look into it": {
        "analyse cost": Command("cost", "parameters, operations, activations and speed of a model"),
        "analyse visualize": Command("visualize", "draw what models see, and how runs went"),
        "analyse print-config": Command("print_config", "print a config with all that it inherits"),
        "doctor": Command("doctor", "examine the installation, and compare every operator with its reference"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
USAGE = "usage: tree-ssm COMMAND [arguments]"
EMPTY_VALUE = re.compile(r"--[\w-]+=")
MAY_BE_EMPTY = "--title"  # no line above a picture


def main(arguments: list[str] | None = None) -> int:
    """Call the command that the arguments name.

    Args:
        arguments: the command line after the program's name; that of this process by default.

    Returns:
        The exit status: 2 if there is no such command, or an argument is empty or not in UTF-8. Else see
        :func:`ssm_train.apis.cli.run`.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if empty := empty_argument(given):
        print(f"tree-ssm: error: {empty} is empty; is a variable of the shell not set?", file=sys.stderr)
        return 2
    if other := next((text for text in given if not is_utf8(text)), None):
        print(
            f"tree-ssm: error: the name {other!r} is not in UTF-8, and logs cannot hold it; rename it", file=sys.stderr
        )
        return 2
    if given[:1] == ["--version"]:
        return cli.run(lambda: print(f"tree-ssm-train {__version__}"))
    name = next((name for name in (" ".join(given[:2]), *given[:1]) if name in COMMANDS), None)
    if name is not None:
        rest = given[len(name.split()) :]
        module = importlib.import_module(f"ssm_train.commands.{COMMANDS[name].module}")
        return cli.run(lambda: module.main(rest))
    group = given[0] if given and any(name.startswith(f"{given[0]} ") for name in COMMANDS) else ""
    asked = given[1:] if group else given
    if asked[:1] in (["--help"], ["-h"]):
        return cli.run(lambda: print(overview(group)))
    if not asked:
        print(overview(group), file=sys.stderr)
        return 2
    wrong = f"{group} {asked[0]}".strip()
    hint = nearest(wrong, COMMANDS) or "; `tree-ssm --help` lists all commands"
    print(f"{USAGE}\ntree-ssm: error: there is no command {wrong!r}{hint}", file=sys.stderr)
    return 2


def empty_argument(given: list[str]) -> str:
    """Name the first argument without text, if there is one.

    Commands could take it for another one: ``--resume "$CHECKPOINT"`` would continue from any checkpoint.
    """
    for place, text in enumerate(given):
        if text == f"{MAY_BE_EMPTY}=" or (not text and given[place - 1 : place] == [MAY_BE_EMPTY]):
            continue
        if not text:
            return f"the argument after {given[place - 1]}" if place else "the command"
        if EMPTY_VALUE.fullmatch(text):
            return text
    return ""


def is_utf8(text: str) -> bool:
    """Whether the bytes of an argument were UTF-8. Python gives other bytes as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def overview(group: str = "") -> str:
    """All commands with what they do.

    Args:
        group: a word with which the names of several commands begin; only these are shown.
    """
    width = max(map(len, COMMANDS)) + 2
    lines = [USAGE]
    for title, commands in GROUPS.items():
        shown = [f"  {name:{width}}{command.words}" for name, command in commands.items() if name.startswith(group)]
        lines += ["", f"{title}:", *shown] if shown else []
    return "\n".join([*lines, "", "`tree-ssm COMMAND --help` has the arguments of a command."])
