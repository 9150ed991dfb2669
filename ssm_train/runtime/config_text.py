"""What a config file assigns, read from its text. The file is parsed and not run, so that it takes no import.

A file is read only if it consists of assignments, imports and functions that it does not call. In any other file a
statement may change everything, and nothing is known of it.
"""

import ast
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssm_train.compat.shipped import OURS, SHIPPED

# Functions that change nothing, and so leave what is known as it is.
_PURE = {
    "abs", "bool", "dict", "enumerate", "float", "frozenset", "int", "len", "list", "max", "min", "range", "reversed",
    "round", "set", "sorted", "str", "sum", "tuple", "zip",
}  # fmt: skip
_VALUE_OF_BASE = re.compile(r"([=:(\[,]\s*)\{\{\s*_base_\.([\w.]+)\s*\}\}")  # mmengine takes {{_base_.name}}, too


class Unknown:
    """Stands for a value that only running the file can tell."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()


class _NotPlainError(Exception):
    """A file has something that is not followed."""


@dataclass
class ConfigText:
    """A config file with those that it inherits from.

    Attributes:
        values: what is assigned, by name. Dictionaries, lists and texts are known where they are written out.
        keys: the names that are keys of the config for certain.
        complete: whether ``values`` has every name. If not, nothing is known.
    """

    values: dict[str, Any] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    complete: bool = True


def read_text(path: Path | None) -> ConfigText:
    """Read a config file.

    Args:
        path: the file; None stands for one that is not found.
    """
    try:
        values = _read(path, ())
    except (_NotPlainError, OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ConfigText(complete=False)
    keys = [name for name, value in values.items() if not name.startswith("_") and value is not UNKNOWN]
    return ConfigText(values, keys)


def merged(value: Any, base: Any = None) -> Any:
    """Lay a value of a config over that of the file it inherits from, as mmengine does.

    Args:
        value: the value. A dictionary with ``_delete_`` replaces that of the base.
        base: the value of the base.
    """
    if not isinstance(value, dict):
        return value
    own = {key: item for key, item in value.items() if key != "_delete_"}
    replaces = value.get("_delete_", False)
    if replaces is UNKNOWN or (base is UNKNOWN and not replaces):
        return UNKNOWN
    if replaces or not isinstance(base, dict):
        return own
    return base | {key: merged(item, base.get(key)) for key, item in own.items()}


def package_folder(name: str) -> Path | None:
    """The folder of a package, which is not imported; None if there is no such package."""
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def _read(path: Path | None, heirs: tuple[str, ...]) -> dict[str, Any]:
    """The values of a file, after those of the files that it inherits from."""
    if path is None or path.suffix != ".py" or not os.path.isfile(path) or os.path.realpath(path) in heirs:
        raise _NotPlainError
    text = _VALUE_OF_BASE.sub(r"\1_base_.\2", path.read_text("utf-8"))
    if "{{" in text:  # mmengine puts in variables of the environment and parts of the path
        raise _NotPlainError
    tree = ast.parse(text)
    base: dict[str, Any] = {}
    for name in _bases(tree):
        package, is_other, _ = name.partition("::")
        found = _read(_base(name, path.parent), (*heirs, os.path.realpath(path)))
        base |= _of_package(found, package) if is_other else found
    reader = _Reader(base)
    for statement in tree.body:
        reader.run(statement)
    return base | {name: merged(value, base.get(name)) for name, value in reader.values.items()}


def _of_package(value: Any, package: str) -> Any:
    """Note the package of a config in its outermost objects, as mmengine does."""
    if isinstance(value, list):
        return [_of_package(item, package) for item in value]
    if not isinstance(value, dict):
        return value
    return {"_scope_": package} | value if "type" in value else {k: _of_package(v, package) for k, v in value.items()}


def _bases(tree: ast.Module) -> list[str]:
    """The texts in ``_base_``."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "_base_" and _stores(node)]
    if not found:
        return []
    assigned = next((node for node in tree.body if isinstance(node, ast.Assign) and node.targets == found), None)
    if assigned is None:
        raise _NotPlainError
    items = assigned.value.elts if isinstance(assigned.value, ast.List) else [assigned.value]
    names = [item.value for item in items if isinstance(item, ast.Constant)]
    if len(names) < len(items) or not all(isinstance(name, str) for name in names):
        raise _NotPlainError
    return names


def _base(name: str, folder: Path) -> Path | None:
    package, separator, rest = name.partition("::")
    if not separator:
        return folder / name
    if name.startswith(OURS):
        return SHIPPED / rest
    found = package_folder(package)
    return found and found / ".mim" / "configs" / rest


class _Reader:
    """Follows the statements of one file.

    Attributes:
        values: what is assigned so far.
    """

    def __init__(self, base: dict[str, Any]):
        self.values: dict[str, Any] = {}
        self._base = base

    def run(self, node: ast.stmt) -> None:
        """Follow a statement.

        Raises:
            _NotPlainError: the statement is of another kind.
        """
        if isinstance(node, ast.Assign):
            value = self._value(node.value)
            for target in node.targets:
                self._store(target, value)
        elif isinstance(node, ast.AnnAssign):
            if node.value:
                self._store(node.target, self._value(node.value))
        elif isinstance(node, ast.Delete):
            for name in map(_name, node.targets):
                self.values.pop(name, None)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                self._assign(alias.asname or alias.name.split(".")[0], UNKNOWN)
        elif isinstance(node, ast.FunctionDef) and not node.decorator_list:
            for default in (*node.args.defaults, *node.args.kw_defaults):
                _ = default and self._value(default)
            self._assign(node.name, UNKNOWN)
        elif not (isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))):
            raise _NotPlainError

    def _store(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Tuple):
            known = isinstance(value, list) and len(value) == len(target.elts)
            for place, name in enumerate(map(_name, target.elts)):
                self._assign(name, value[place] if known else UNKNOWN)
        else:
            self._assign(_name(target), value)

    def _assign(self, name: str, value: Any) -> None:
        if name in _PURE or name == "*":
            raise _NotPlainError
        self.values[name] = value

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self.values.get(node.id, UNKNOWN)
        if isinstance(node, ast.List | ast.Tuple) and not any(isinstance(item, ast.Starred) for item in node.elts):
            return [self._value(item) for item in node.elts]
        if isinstance(node, ast.Dict):
            pairs = [(self._value(key) if key else UNKNOWN, self._value(item)) for key, item in _pairs(node)]
            return dict(pairs) if all(isinstance(key, str) for key, _ in pairs) else UNKNOWN
        if isinstance(node, ast.Attribute):
            return self._of_base(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
            return self._dict(node)
        return _computed(node)

    def _dict(self, node: ast.Call) -> Any:
        given = [self._value(item) for item in node.args]
        named = [(keyword.arg, self._value(keyword.value)) for keyword in node.keywords]
        parts = [*given, *({name: value} if name else value for name, value in named)]
        return {k: v for part in parts for k, v in part.items()} if all(isinstance(p, dict) for p in parts) else UNKNOWN

    def _of_base(self, node: ast.expr) -> Any:
        """The value of ``_base_.model.backbone``."""
        if isinstance(node, ast.Attribute):
            holder = self._of_base(node.value)
            return holder.get(node.attr, UNKNOWN) if isinstance(holder, dict) else UNKNOWN
        return self._base if isinstance(node, ast.Name) and node.id == "_base_" else _computed(node)


def _computed(node: ast.expr) -> Unknown:
    """The value of an expression that is not followed.

    Raises:
        _NotPlainError: the expression could change other values.
    """
    for part in ast.walk(node):
        calls = isinstance(part, ast.Call) and not (isinstance(part.func, ast.Name) and part.func.id in _PURE)
        if calls or isinstance(part, ast.NamedExpr):
            raise _NotPlainError
    return UNKNOWN


def _name(node: ast.expr) -> str:
    if not isinstance(node, ast.Name):
        raise _NotPlainError
    return node.id


def _stores(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def _pairs(node: ast.Dict) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    return zip(node.keys, node.values, strict=True)
