"""The classes that a config names, read from the text of their packages, so that finding a typo takes no import.

What cannot be known in this way is None. Nothing is guessed.
"""

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ssm_train.runtime.config_text import package_folder

_REGISTERED = r"^@{registry}\.register_module\(\)\n(?:@.*\n)*(?:class|def) (\w+)"
_PACKAGES = ("ssm_train", "quadtree_ssm", "tree_ssm")  # what they register is known under their names
_READ = (
    *_PACKAGES,
    "ssm_core",
    "mmengine",
    "mmdet",
    "mmseg",
    "mmcv",
)  # packages that are small enough to be read as a whole
_DEEPEST = 20  # classes and modules through which a name leads


class Definition(NamedTuple):
    """A class or a function.

    Attributes:
        node: its syntax.
        file: where it is defined.
    """

    node: ast.ClassDef | ast.FunctionDef
    file: Path


def find_definition(kind: str, scope: str, registry: str) -> Definition | None:
    """Find what the ``type`` of a config names.

    Args:
        kind: the type.
        scope: the package that is asked first.
        registry: name of mmengine's registry of such objects, such as ``MODELS``.

    Returns:
        The definition; None if there is none, or more than one, or it is made in another way.
    """
    package, _, rest = kind.rpartition(".")
    if "." in package:  # a full path, which is in no registry
        return _named(_module(package), rest)
    packages = [package] if package else [scope, "mmengine"]
    if not set(packages) <= set(_READ):
        return None
    for name in packages:
        found = [place for place in _places(name, rest) if _is_registered(place, name, registry)]
        if found:
            return found[0] if len(found) == 1 else None
    return _named(_module("torch.optim"), rest) if registry == "OPTIMIZERS" and not package else None


def arguments(module: str, name: str) -> set[str] | None:
    """The names of the arguments of a class in a module; None if they are not known."""
    found = _named(_module(module), name)
    return accepted(found) if found else None


def accepted(found: Definition) -> set[str] | None:
    """The names of the arguments of a class or a function, including those that it passes on to base classes.

    Returns:
        The names; None if any name is accepted, or they are not known.
    """
    if isinstance(found.node, ast.FunctionDef):
        several = found.node.args.vararg
        taken = _names(found.node) | ({several.arg} if several else set())
        return taken if _is_plain(found.node) and found.node.args.kwarg is None else None
    names: set[str] = set()
    for place in _order(found):
        if place is None or not _is_plain(place.node):
            return None
        own = next((n for n in place.node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        names |= _names(own) if own else set()
        if own and own.args.kwarg is None:
            return names
    return None


def is_unknown(kind: str, scope: str) -> bool:
    """Whether the name of a type occurs in no package that could define or register it."""
    package, _, name = kind.rpartition(".")
    word = re.compile(rf"\b{re.escape(name)}\b")
    if package == "mmengine" or (not package and scope == "mmengine"):
        return False  # every package can register classes there
    packages = [package.split(".")[0]] if package else [scope, "mmengine", "mmcv", "torch.optim"]
    if packages[0] not in _READ or not _texts(packages[0]):
        return False
    return not any(word.search(text) for one in packages for text in _texts(one).values())


def registered(registry: str, scope: str, kind: str) -> set[str]:
    """The names under which classes are registered, as a config of a scope gives them.

    Args:
        registry: name of mmengine's registry.
        scope: the package whose names need no prefix.
        kind: a type, whose package has names, too.
    """
    pattern = re.compile(_REGISTERED.format(registry=registry), re.MULTILINE)
    names: set[str] = set()
    for package in {scope, "mmengine", *_PACKAGES, *kind.split(".")[:-1][:1]}:
        prefix = "" if package in (scope, "mmengine") else f"{package}."
        found = {name for text in _texts(package).values() for name in pattern.findall(text)}
        found |= set(_given_away(package, registry))
        names |= {f"{prefix}{name}" for name in found}
    module, _, _ = kind.rpartition(".")
    if "." in module and (file := _module(module)) is not None:
        names |= {f"{module}.{name}" for name in _exported(_tree(file))}
    if registry == "OPTIMIZERS":
        names |= {name for text in _texts("torch.optim").values() for name in re.findall(r"^class (\w+)\(", text, re.M)}
    return names


@cache
def registry_words(registry: str) -> str:
    """What mmengine calls the objects of a registry: ``model`` for ``MODELS``."""
    text = _texts("mmengine.registry").get(Path("root.py"), "")
    found = re.search(rf"^{registry} = Registry\(\s*'([^']+)'", text, re.MULTILINE)
    return found[1] if found else ""


@cache
def _texts(package: str) -> dict[Path, str]:
    """The texts of a package's modules, by their paths in it; none if there is no such package."""
    first, *rest = package.split(".")
    folder = package_folder(first)
    if folder is None:
        return {}
    folder = folder.joinpath(*rest)
    return {path.relative_to(folder): path.read_text("utf-8", "replace") for path in sorted(folder.rglob("*.py"))}


@cache
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], [])


def _places(package: str, name: str) -> Iterator[Definition]:
    """What a package defines under a name at the top of its modules."""
    for path in _defined(package).get(name, ()):
        if (node := _top(_tree(path)).get(name)) is not None:
            yield Definition(node, path)


@cache
def _defined(package: str) -> dict[str, list[Path]]:
    """The files of a package that define a class or a function, by its name."""
    folder = package_folder(package)
    places: dict[str, list[Path]] = {}
    for path, text in _texts(package).items():
        for name in re.findall(r"^(?:class|def) (\w+)", text, re.MULTILINE):
            places.setdefault(name, []).append(Path(folder or "", path))
    return places


def _top(tree: ast.Module) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def _exported(tree: ast.Module) -> set[str]:
    """The names at the top of a module that begin with a capital, as classes do."""
    imported = {alias.asname or alias.name for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    return {name for name in {*_top(tree), *imported} if name[:1].isupper()}


def _is_registered(found: Definition, package: str, registry: str) -> bool:
    decorators = [ast.unparse(decorator) for decorator in found.node.decorator_list]
    return f"{registry}.register_module()" in decorators or found.node.name in _given_away(package, registry)


def _given_away(package: str, registry: str) -> list[str]:
    """The classes that a package's ``registry.py`` registers by a call."""
    text = _texts(package).get(Path("registry.py"), "")
    return re.findall(rf"^{registry}\.register_module\(module=(\w+)\)", text, re.MULTILINE)


@cache
def _module(name: str) -> Path | None:
    """The file of a module, which is not imported."""
    first, *rest = name.split(".")
    folder = package_folder(first)
    return _file_of(folder, rest) if folder and all(part.isidentifier() for part in rest) else None


def _file_of(folder: Path, parts: list[str]) -> Path | None:
    """The file of a module within a folder."""
    path = folder.joinpath(*parts)
    candidates = [path / "__init__.py", *([path.with_suffix(".py")] if parts else [])]
    return next((file for file in candidates if os.path.isfile(file)), None)


def _named(file: Path | None, name: str, depth: int = _DEEPEST) -> Definition | None:
    """What a name stands for at the top of a module, which may import it from another one."""
    if file is None or depth == 0:
        return None
    tree = _tree(file)
    if name in (top := _top(tree)):
        return Definition(top[name], file)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            original = next((alias.name for alias in node.names if (alias.asname or alias.name) == name), None)
            if original is not None:
                return _named(_imported(node, file), original, depth - 1)
    return None


def _imported(node: ast.ImportFrom, file: Path) -> Path | None:
    """The file of the module that a statement imports from."""
    if not node.level:
        return _module(node.module or "")
    return _file_of(file.parents[node.level - 1], node.module.split(".") if node.module else [])


def _order(found: Definition, depth: int = _DEEPEST) -> list[Definition | None]:
    """A class and its bases in the order in which Python asks them. It ends with None at one that is not found."""
    bases = [_base_of(base, found.file) for base in found.node.bases if ast.unparse(base) != "object"]
    rows = [*(_order(base, depth - 1) if base and depth else [None] for base in bases), bases]
    order: list[Definition | None] = [found]
    while rows := [row for row in rows if row]:
        first = next((row[0] for row in rows if not any(row[0] in other[1:] for other in rows)), None)
        order.append(first)
        if first is None:
            break
        rows = [[item for item in row if item != first] for row in rows]
    return order


def _base_of(node: ast.expr, file: Path) -> Definition | None:
    found = _named(file, node.id) if isinstance(node, ast.Name) else None
    return found if found and isinstance(found.node, ast.ClassDef) else None


def _is_plain(node: ast.ClassDef | ast.FunctionDef) -> bool:
    """Whether its arguments are those that are written: it is registered, and not changed by another decorator."""
    return all(".register_module(" in ast.unparse(decorator) for decorator in node.decorator_list)


def _names(node: ast.FunctionDef) -> set[str]:
    given = node.args
    return {arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)} - {"self"}
