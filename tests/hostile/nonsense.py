"""Command lines that nobody can mean, made from the parsers of the tools and from the keys of configs."""

import argparse
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from unittest import mock

import command_line

NUMBERS = ("x", "", "nan", "1e999", "0", "-1", "0.5", "1" + "0" * 20, "1,2", "None")
NEVER = {"x", "", "1,2", "None", "nan"}  # no number that can be meant
TEXTS = ("", "nonsense", "../..", "-", "\N{SNOWMAN}", "a" * 300)
SETTINGS = ("", "=", "x", "=1", "nonsense.x=1", "model=1", "model.backbone=None", "train_cfg.=1", ".=1", "model..x=1",
            "default_hooks.0.x=1", "param_scheduler.-1.end=1", "param_scheduler.x=1")  # fmt: skip
# What a key of a config gets, by the kind of value that it has.
FOR_NUMBERS = ("x", "nan", "inf", "-1", "0", "0.5", "1" + "0" * 20, "[]", "{}", "None", "True", "''", "[x,1]")
FOR_OTHERS = {
    bool: ("x", "7", "[]", "{}", "None", "nan"),
    str: ("nonesuch", "7", "-1.5", "[]", "{}", "None", "True", "''", "/dev/null", "no/such/file"),
    list: ("x", "7", "-1", "[]", "[x]", "{}", "None", "[-1]", "[nan,nan]", "[0,0,0,0,0,0,0]"),
    dict: ("x", "7", "[]", "{}", "None", "[1]", "{'type':'Nonsense'}", "{'nonsense':1}"),
    type(None): ("x", "7", "[]", "{}", "True"),
}


class Line(NamedTuple):
    """A command line.

    Attributes:
        tool: path of the tool below ``tools/``, without its suffix.
        arguments: of the tool.
        named: what an error has to name; anything if empty.
        wrong: whether success would be an error.
    """

    tool: str
    arguments: tuple[str, ...]
    named: str = ""
    wrong: bool = True

    def __str__(self) -> str:
        return " ".join([self.tool, *(argument or "''" for argument in self.arguments)])


class Paths(NamedTuple):
    """Paths that are of no use.

    Attributes:
        read: for what is read.
        file: for a file that is written.
        folder: for a folder that is written to.
    """

    read: tuple[str, ...]
    file: tuple[str, ...]
    folder: tuple[str, ...]


READ = {"config", "checkpoint", "checkpoints", "source", "images", "image", "files", "text", "rows", "model", "models",
        "runs"}  # fmt: skip
FILE = {"out", "json", "plot", "profile", "destination"}
FOLDER = {"folder", "root", "hub", "work_dir"}


class _FoundError(Exception):
    pass


def parser_of(tool: str) -> argparse.ArgumentParser:
    """The parser that a tool makes. Nothing is parsed."""
    found = []

    def parse(self: argparse.ArgumentParser, *_: object) -> None:
        found.append(self)
        raise _FoundError

    module = command_line.load_tool(tool)
    make = getattr(module, "parse_arguments", None) or getattr(module, "parse", None) or module.main
    ways = {"parse_args": parse, "parse_intermixed_args": parse}
    with mock.patch.multiple(argparse.ArgumentParser, **ways), suppress(_FoundError):
        make([])
    return found[0]


def actions_of(parser: argparse.ArgumentParser, arguments: list[str]) -> Iterator[argparse.Action]:
    """The options and places of a parser, and those of the subcommand that the arguments begin with."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield action
            yield from actions_of(action.choices[arguments[0]], arguments[1:])
        elif not isinstance(action, argparse._HelpAction):
            yield action


def values_for(action: argparse.Action, paths: Paths) -> Iterator[tuple[str, bool]]:
    """Nonsense for one option or place: the text, and whether success would be an error."""
    kind = getattr(action.type, "__name__", "")
    if action.choices is not None:
        yield from ((text, True) for text in ("nonsense", "", next(iter(action.choices)).upper() + "X"))
    elif action.dest.endswith("_options"):
        yield from ((text, True) for text in SETTINGS)
    elif action.dest in FOLDER or action.metavar == "DIR":
        yield from ((path, True) for path in paths.folder)
    elif action.dest in FILE:
        yield from ((path, True) for path in paths.file)
    elif action.dest in READ:
        yield from ((path, action.dest != "files") for path in paths.read)  # any text is a file to learn from
    elif kind in ("int", "float") or (callable(action.type) and kind not in ("Path", "str", "parse")):
        never = NEVER | ({"0.5", "1e999"} if kind == "int" else set())
        yield from ((text, text in never) for text in NUMBERS)
    else:
        yield from ((text, False) for text in TEXTS)


def lines_of_tool(tool: str, good: list[str], paths: Paths, starts_others: bool = False) -> Iterator[Line]:
    """Every line that differs from a good one in one thing.

    Args:
        tool: see :class:`Line`.
        good: arguments with which the tool works.
        paths: see :class:`Paths`.
        starts_others: whether the tool gives what it reads to other tools, which take seconds to start. What it reads
            is then left as it is.
    """
    yield Line(tool, (*good, "--nonsense"), "--nonsense")
    yield Line(tool, (*good, "a", "b", "c"))
    places = 0
    for action in actions_of(parser_of(tool), good):
        name = action.option_strings[0] if action.option_strings else ""
        if starts_others and (action.dest in READ or action.dest.endswith("_options")):
            places += not name
            continue
        if not name and places < len(good) and not good[places].startswith("--"):
            yield from (Line(tool, (*good[:places], text, *good[places + 1 :]), wrong=wrong)
                        for text, wrong in values_for(action, paths))  # fmt: skip
            if action.nargs not in ("?", "*"):
                yield Line(tool, tuple(good[:places]))
            places += 1
        elif name and action.nargs == 0:
            yield Line(tool, (*good, f"{name}=x"), name)
        elif name:
            count = action.nargs if isinstance(action.nargs, int) else 1
            if action.nargs != "?":
                yield Line(tool, (*_without(good, name), name), name)
            for text, wrong in values_for(action, paths):
                given = [name, *[text] * count] if count > 1 else [f"{name}={text}"]
                extra = given if action.dest.endswith("_options") else []
                kept = good if extra else _without(good, name)
                yield Line(tool, (*kept, *(extra or given)), wrong=wrong)


def _without(arguments: list[str], name: str) -> list[str]:
    """The arguments without an option and its values."""
    if name not in arguments:
        return arguments
    start = arguments.index(name)
    end = next((i for i in range(start + 1, len(arguments)) if arguments[i].startswith("--")), len(arguments))
    return arguments[:start] + arguments[end:]


def settings_of(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a config with its value, the inner ones dotted."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, value in items:
        inner = f"{place}.{key}" if place else str(key)
        yield inner, value
        if isinstance(value, dict) or (isinstance(value, list | tuple) and any(isinstance(v, dict) for v in value)):
            yield from settings_of(value, inner)


def lines_of_config(tool: str, good: list[str], config: dict) -> Iterator[Line]:
    """Lines that set every key of a config to nonsense.

    Args:
        tool: see :class:`Line`.
        good: arguments with which the tool works, ``--cfg-options`` the last of them.
        config: the config that they lead to.
    """
    from ssm_train.runtime.config_check import TOP_LEVEL_KEYS

    # What else is at the top of a config are variables of the file, which nothing reads afterwards.
    for key, value in settings_of({key: config[key] for key in config if key in TOP_LEVEL_KEYS}):
        name = key.rpartition(".")[2] if key != "default_scope" else ""  # a type that another scope lacks is named
        number = isinstance(value, int | float) and not isinstance(value, bool)
        kind = list if isinstance(value, tuple) else type(value)
        for text in FOR_NUMBERS if number else FOR_OTHERS.get(kind, ()):
            named = name if text != "''" else ""  # what is missed by then may have another name
            yield Line(tool, (*good, f"{key}={text}"), named, number and text in ("x", "nan", "{}", "[x,1]"))
        if isinstance(value, dict) and "." in key:
            yield Line(tool, (*good, f"{key}.nonsense_key=1"), "nonsense_key", False)
