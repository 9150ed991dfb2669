"""Finds a misspelt config or key within a second, before torch and mmengine are imported, which takes several.

The files are parsed and not run. What cannot be known in this way is left to :mod:`.config_check`.
"""

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ssm_train.compat.shipped import OURS, SHIPPED
from ssm_train.runtime.config_files import find_config
from ssm_train.runtime.config_keys import (
    LOADERS,
    OWN_LOADER_KEYS,
    PLAIN,
    RUNNER_EXTRAS,
    check_top_key,
    option_key,
    unknown_option,
)


def check_early(path: str | Path, options: Iterable[str] = ()) -> None:
    """Check that a config exists, and the first keys in it and on a command line.

    Args:
        path: see :func:`~ssm_train.runtime.config.load_config`, which says the same later on.
        options: changes ``key=value``.

    Raises:
        ConfigError: the config is missing, or a key is unknown.
    """
    names = _Names()
    names.read(find_config(path))
    top = _arguments("mmengine", "runner/runner.py", "Runner") - {"cfg"}
    if not top:
        return
    top = top | RUNNER_EXTRAS
    for name in names.keys:
        check_top_key(name, top)
    for option in options:
        key = option_key(option)
        first, *rest = key.split(".")
        if first not in top | names.stored and names.complete:
            raise unknown_option(key, "", first, top | names.stored)
        if rest and first in LOADERS:
            known = _arguments("torch", "utils/data/dataloader.py", "DataLoader")
            known = known and known | set(OWN_LOADER_KEYS)
        else:
            known = frozenset(PLAIN.get(first, ()))
        if rest and known and names.complete and rest[0] not in known | names.inner:
            raise unknown_option(key, first, rest[0], known)


@dataclass
class _Names:
    """The names in a config file and in those that it inherits from.

    Attributes:
        keys: what is assigned at the top of a file.
        stored: what is assigned anywhere in a file.
        inner: keys of all dictionaries, and texts that could be such keys.
        complete: whether all files could be parsed.
    """

    keys: list[str] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)
    inner: set[str] = field(default_factory=set)
    complete: bool = True
    seen: set[Path] = field(default_factory=set)

    def read(self, path: Path | None) -> None:
        """Take the names of a file; None stands for one that is not found."""
        if path is None or path.suffix != ".py" or not path.is_file():
            self.complete = False
            return
        if path.resolve() in self.seen:
            return
        self.seen.add(path.resolve())
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            self.complete = False
            return
        assigned = dict(_assigned(tree))
        deleted = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Del)}
        self.keys += [name for name in assigned if not name.startswith("_") and name not in deleted]
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.stored.add(node.id)
            elif isinstance(node, ast.alias):
                self.complete &= node.name != "*"
                self.stored.add(node.asname or node.name.split(".")[0])
            elif isinstance(node, ast.keyword) and node.arg:
                self.inner.add(node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.inner.add(node.value)
            elif isinstance(node, ast.With):  # mmengine's other kind of config, whose bases are imports
                self.complete = False
        for base in _texts(assigned.get("_base_")):
            self.read(_base(base, path.parent))


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from ((name.id, node.value) for name in node.targets if isinstance(name, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value


def _texts(value: ast.expr | None) -> list[str]:
    """The bases of a config. One that is no plain text leads to no file."""
    if value is None:
        return []
    items = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
    return [str(item.value) if isinstance(item, ast.Constant) else "" for item in items]


def _base(name: str, folder: Path) -> Path | None:
    package, separator, rest = name.partition("::")
    if not separator:
        return folder / name
    if name.startswith(OURS):
        return SHIPPED / rest
    found = _package(package)
    return found and found / ".mim" / "configs" / rest


def _package(name: str) -> Path | None:
    """The folder of a package, which is not imported."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


@cache
def _arguments(package: str, module: str, name: str) -> frozenset[str]:
    """The arguments of a class, read from its source; none if there is no such source.

    Args:
        package: the package.
        module: the file in it.
        name: the class.
    """
    folder = _package(package)
    try:
        tree = ast.parse((folder / module).read_bytes()) if folder else ast.Module([], [])
    except (OSError, SyntaxError):
        return frozenset()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for own in node.body:
                if isinstance(own, ast.FunctionDef) and own.name == "__init__":
                    given = own.args
                    names = {arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
                    return frozenset(names - {"self"})
    return frozenset()
