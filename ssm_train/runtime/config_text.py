"""What a config file assigns, read from its text. The file is parsed and not run, so that it takes no import."""

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssm_train.compat.shipped import OURS, SHIPPED


class Unknown:
    """Stands for a value that only running the file can tell."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()


@dataclass
class ConfigText:
    """A config file with those that it inherits from.

    Attributes:
        values: what is assigned, by name. Dictionaries, lists and texts are known where they are written out.
        keys: the names that are keys of the config.
        complete: whether ``values`` has every name.
    """

    values: dict[str, Any] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    complete: bool = True


def read_text(path: Path | None, heirs: tuple[Path, ...] = ()) -> ConfigText:
    """Read a config file.

    Args:
        path: the file; None stands for one that is not found.
        heirs: the files that inherit from it.
    """
    if path is None or path.suffix != ".py" or not path.is_file() or path.resolve() in heirs:
        return ConfigText(complete=False)
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ConfigText(complete=False)
    base = ConfigText()
    for name in _bases(tree):
        found = read_text(_base(name, path.parent), (*heirs, path.resolve()))
        package, is_other, _ = name.partition("::")
        base.values |= _of_package(found.values, package) if is_other else found.values
        base.keys += found.keys
        base.complete &= found.complete
    reader = _Reader(base.values)
    for statement in tree.body:
        reader.run(statement)
    values = {name: merged(value, base.values.get(name)) for name, value in reader.values.items()}
    keys = [name for name in reader.values if not name.startswith("_") and name not in reader.no_keys]
    return ConfigText(base.values | values, base.keys + keys, base.complete and reader.complete)


def merged(value: Any, base: Any = None) -> Any:
    """Lay a value of a config over that of the file it inherits from, as mmengine does.

    Args:
        value: the value. A dictionary with ``_delete_`` replaces that of the base.
        base: the value of the base.
    """
    if not isinstance(value, dict):
        return value
    if value.get("_delete_") or not isinstance(base, dict | Unknown):
        return {key: item for key, item in value.items() if key != "_delete_"}
    if isinstance(base, Unknown):
        return UNKNOWN
    return base | {key: merged(item, base.get(key)) for key, item in value.items()}


def package_folder(name: str) -> Path | None:
    """The folder of a package, which is not imported; None if there is no such package."""
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def _of_package(value: Any, package: str) -> Any:
    """Note the package of a config in its outermost objects, as mmengine does."""
    if isinstance(value, list):
        return [_of_package(item, package) for item in value]
    if not isinstance(value, dict):
        return value
    return {"_scope_": package} | value if "type" in value else {k: _of_package(v, package) for k, v in value.items()}


def _bases(tree: ast.Module) -> Iterator[str]:
    """The texts in ``_base_``. One that is no plain text leads to no file."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "_base_" for to in node.targets):
            items = node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
            yield from (str(item.value) if isinstance(item, ast.Constant) else "" for item in items)


def _base(name: str, folder: Path) -> Path | None:
    package, separator, rest = name.partition("::")
    if not separator:
        return folder / name
    if name.startswith(OURS):
        return SHIPPED / rest
    found = package_folder(package)
    return found and found / ".mim" / "configs" / rest


class _Reader:
    """Follows the assignments of one file.

    Attributes:
        values: what is assigned so far.
        no_keys: names of modules, functions and classes, which are no keys of a config.
        complete: whether ``values`` has every name.
    """

    def __init__(self, base: dict[str, Any]):
        self.values: dict[str, Any] = {}
        self.no_keys: set[str] = set()
        self.complete = True
        self._base = base

    def run(self, node: ast.stmt) -> None:
        """Follow a statement."""
        if isinstance(node, ast.Assign):
            value = self._value(node.value)
            for target in node.targets:
                self._assign(target, value)
        elif isinstance(node, ast.AnnAssign) and node.value:
            self._assign(node.target, self._value(node.value))
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    self.values.pop(target.id, None)
                else:
                    self._forget()
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                self.complete &= alias.name != "*"
                self._hide(alias.asname or alias.name.split(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            self._hide(node.name)
        elif isinstance(node, ast.With):  # mmengine's other kind of config, whose bases are imports
            self.complete = False
        elif not (isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))):
            self._forget()
            for name in ast.walk(node):
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                    self.values[name.id] = UNKNOWN

    def _hide(self, name: str) -> None:
        self.values[name] = UNKNOWN
        self.no_keys.add(name)

    def _forget(self) -> None:
        """Take every value for unknown: a statement or a call that is not followed can change them all."""
        self.values = dict.fromkeys(self.values, UNKNOWN)

    def _assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.values[target.id] = value
            return
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):  # a name among several
                self.values[node.id] = UNKNOWN
            elif isinstance(node, ast.Subscript | ast.Attribute):
                self._forget()

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self.values.get(node.id, UNKNOWN)
        if isinstance(node, ast.List | ast.Tuple):
            return [self._value(item) for item in node.elts] if not _starred(node.elts) else self._not_followed(node)
        if isinstance(node, ast.Dict):
            pairs = [(self._value(key) if key else UNKNOWN, self._value(item)) for key, item in _pairs(node)]
            return dict(pairs) if all(isinstance(key, str) for key, _ in pairs) else UNKNOWN
        if isinstance(node, ast.Attribute):
            return self._of_base(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
            return self._dict(node)
        return self._not_followed(node)

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
        return self._base if isinstance(node, ast.Name) and node.id == "_base_" else self._not_followed(node)

    def _not_followed(self, node: ast.expr) -> Unknown:
        if any(isinstance(part, ast.Call) for part in ast.walk(node)):
            self._forget()
        return UNKNOWN


def _starred(items: list[ast.expr]) -> bool:
    return any(isinstance(item, ast.Starred) for item in items)


def _pairs(node: ast.Dict) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    return zip(node.keys, node.values, strict=True)
