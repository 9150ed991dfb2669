"""Reads the commands that pages tell their readers to paste."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from command_line import ROOT

FENCE = re.compile(r"^ *```bash(?: [^\n]*)?\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
SETTING = re.compile(r"[A-Z_]+=.*", re.DOTALL)


def pages() -> list[Path]:
    """Every page with commands for readers; CHANGELOG.md and docs/upgrading.md also have those of earlier editions."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "requirements" / "README.md"]
    found += [ROOT / "configs" / "README.md", *(ROOT / "configs").glob("*/README.md"), ROOT / "csrc" / "README.md"]
    return found + [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name != "upgrading.md"]


def split(text: str) -> Iterator[tuple[str, ...]]:
    """The commands of a shell script, each as its words without the settings before it."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and SETTING.fullmatch(words[0]):
            words.pop(0)
        if words:
            yield tuple(words)


def commands_of(places: Iterable[Path]) -> list[tuple[str, ...]]:
    """The commands in the code blocks of pages, without repetitions."""
    return sorted({words for path in places for block in FENCE.findall(path.read_text()) for words in split(block)})


def inline_of(places: Iterable[Path], program: str) -> list[tuple[str, ...]]:
    """The commands of a program that pages name within a sentence, without repetitions."""
    pattern = re.compile(rf"`({program} [^`]+)`")
    texts = (" ".join(text.split()) for path in places for text in pattern.findall(path.read_text()))
    return sorted({tuple(shlex.split(text)) for text in texts})
