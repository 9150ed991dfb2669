"""Loading a config file, and changing it from the command line."""

import ast
import copy
import itertools
import os
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import ConfigParsingError
from yaml import YAMLError

from ssm_core.errors import ConfigError, MissingPackageError, nearest
from ssm_core.writing import is_of_the_disk, write_error
from ssm_train.compat import base_configs, manager_lock, quiet
from ssm_train.compat.safe_loading import read_checkpoints_safely
from ssm_train.data.wrapper import bare_datasets
from ssm_train.runtime.config_check import annotation_at, check_config, possible_keys
from ssm_train.runtime.config_files import check_base, find_config
from ssm_train.runtime.config_keys import no_index, option_key, unknown_option
from ssm_train.runtime.config_objects import renamed
from ssm_train.runtime.config_values import check_change
from ssm_train.runtime.custom_imports import import_modules
from ssm_train.runtime.launcher_variables import Launcher

# Done at import, so that mmseg's own inferencer can read our configs once this module is imported.
base_configs.accept_packages()
manager_lock.give_back_after_errors()
quiet.leave_out()
# Every program that reads a config imports this module before it reads a checkpoint.
read_checkpoints_safely()

# The exceptions of reading a faulty config file, or of merging it with its bases. Running it may raise any other.
_FAULTS = (
    SyntaxError,
    NameError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    ImportError,
    OSError,
    RecursionError,
    ConfigParsingError,
    YAMLError,
)
# The parts of a training, a validation and a test, each of which is nothing without the others.
_TOGETHER = (
    ("train_dataloader", "train_cfg", "optim_wrapper"),
    ("val_dataloader", "val_cfg", "val_evaluator"),
    ("test_dataloader", "test_cfg", "test_evaluator"),
)


def load_config(path: str | Path, options: list[str] | None = None) -> Config:
    """Read a config, apply ``key=value`` options and check every name in it.

    Args:
        path: the config file, or the name of one that comes with the package, see
            :func:`~ssm_train.runtime.config_files.find_config`.
        options: changes, such as ``["train_cfg.max_epochs=5", "model.backbone.arch=small"]``.

    Raises:
        ConfigError: the file is missing or faulty, or a key, a type or an argument is unknown.
        MissingPackageError: a package that the config inherits from or imports is not installed.
    """
    path = find_config(path)
    try:
        _check_bases(path)
        cfg = Config.fromfile(path, import_custom_modules=False)
    except ModuleNotFoundError as error:
        # Python's own error has the package as an attribute. mmengine's error for a missing base has it in the text.
        package = error.name or str(error).partition(" is not installed")[0]
        if hint := renamed(package):
            raise ConfigError(f"the config {path} imports {package}, which is not there{hint}") from error
        raise MissingPackageError(package, f"the config {path}") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and is_of_the_disk(error):  # mmengine reads a copy in a temporary folder
            raise write_error(error, error.filename or tempfile.gettempdir()) from error
        line = _line_of_config(error)
        if not line and not isinstance(error, _FAULTS):
            raise  # neither the user's code nor the reading of it, but a mistake of a library
        raise ConfigError(f"the config {path} is faulty: {type(error).__name__}: {_one_line(error)}{line}") from error
    if not cfg:
        raise ConfigError(f"the config {path} is empty")
    import_modules(cfg.get("custom_imports"), path)
    apply_options(cfg, options or [])
    check_config(cfg)
    return cfg


def run_config(
    path: str | Path,
    options: list[str] | None = None,
    work_dir: str | None = None,
    launcher: Launcher = "none",
    amp: bool = False,
    compiled: bool = False,
) -> Config:
    """Load the complete config of a run. Nothing changes it on its way to the Runner.

    Args:
        path: see :func:`load_config`.
        options: see :func:`load_config`.
        work_dir: folder of the run. By default the config's ``work_dir``, else ``work_dirs/`` and the config's name.
        launcher: the program that started the processes of the run.
        amp: whether to train in bfloat16, unless the config names a precision other than float32.
        compiled: whether to compile the network, with the config's settings if it has any.

    Raises:
        ConfigError: see :func:`load_config`, or the config has no model, or only some of the parts of a training or a
            test.
        MissingPackageError: see :func:`load_config`.
    """
    cfg = load_config(path, options)
    require_model(cfg)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(path).stem)
    if amp and cfg.optim_wrapper.get("dtype", "float32") == "float32":
        cfg.optim_wrapper.dtype = "bfloat16"
    if compiled:
        cfg.compile = cfg.get("compile") or True
    for parts in _TOGETHER:
        given = [part for part in parts if cfg.get(part) is not None]
        if 0 < len(given) < len(parts):
            missing = next(part for part in parts if part not in given)
            raise ConfigError(f"the config has {given[0]} and no {missing}: {', '.join(parts)} go together")
    return cfg


def require_model(cfg: Config) -> None:
    """Raise unless a config has a model.

    Raises:
        ConfigError: it has none.
    """
    if cfg.get("model") is None:
        raise ConfigError(f"the config {cfg.filename} has no model")


def changed(cfg: Config, values: dict[str, Any]) -> Config:
    """Copy a config and set values at the top level of the copy.

    Args:
        cfg: the config, which stays as it is.
        values: new values by top-level key.
    """
    copied = copy.deepcopy(cfg)
    for key, value in values.items():
        copied[key] = value
    return copied


def with_model_around(cfg: Config, settings: Mapping[str, Any]) -> Config:
    """Copy a config, with another model around the trained one in the copy.

    The Runner gives the ``data_preprocessor`` at the top of a config to a model that has none. In the copy the trained
    model has it. A model of mmengine's for augmented tests would use it in place of the trained model's own.

    Args:
        cfg: the config, which stays as it is.
        settings: type and arguments of the other model, whose argument ``module`` is the trained one.
    """
    copied = changed(cfg, {})
    preprocessor = copied.pop("data_preprocessor", None)
    if preprocessor is not None:
        copied.model.setdefault("data_preprocessor", preprocessor)
    copied.model = ConfigDict(**settings, module=copied.model)
    return copied


def with_test_augmentation(cfg: Config) -> Config:
    """Copy a config, with test-time augmentation in the copy.

    The ``tta_pipeline`` of the config makes several versions of every image, and its ``tta_model`` merges their
    predictions.

    Raises:
        ConfigError: the config lacks one of the two keys.
    """
    missing = [key for key in ("tta_pipeline", "tta_model") if key not in cfg]
    if missing:
        raise ConfigError(f"the config has no {' and no '.join(missing)}: there is no test-time augmentation")
    augmented = with_model_around(cfg, changed(cfg, {}).tta_model)
    for dataset in bare_datasets(augmented.test_dataloader.dataset):
        dataset.pipeline = augmented.tta_pipeline
    return augmented


def apply_options(cfg: Config, options: list[str]) -> None:
    """Set values by dotted keys. A key must exist, or be an argument of the object that the config builds there.

    Args:
        cfg: the config, which is changed.
        options: texts ``key=value``; for the values see :func:`parse_value`.

    Raises:
        ConfigError: an option is not ``key=value``, or its key is unknown.
    """
    for option in options:
        key = option_key(option)
        text = option.removeprefix(f"{key}=")
        _check_key(cfg, key)
        value = parse_value(text)
        _check_change(cfg, key, value)
        try:
            cfg.merge_from_dict({key: value})
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"--cfg-options cannot set {key}: {_one_line(error)}") from error


def parse_value(text: str) -> Any:
    """Read a value from the command line.

    Args:
        text: a Python literal; ``true``, ``false`` or ``none`` in upper or lower case; a list separated by commas, with
            or without brackets; or any other text, which stays as it is.
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    bracketed = text[:1] + text[-1:] in ("[]", "()")
    if bracketed or "," in text:
        items = (text[1:-1] if bracketed else text).split(",")
        return [parse_value(item.strip()) for item in items if item.strip()]
    return text


def _check_key(cfg: Config, key: str) -> None:
    """Raise unless a dotted key exists. Its last part may be new if a class takes it as an argument."""
    node: Any = cfg._cfg_dict
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if isinstance(node, list | tuple):
            if not part.isdecimal() or int(part) >= len(node):
                raise no_index(key, ".".join(parts[:depth]), len(node))
            node = node[int(part)]
            continue
        if not isinstance(node, dict):
            raise ConfigError(f"--cfg-options {key}: {'.'.join(parts[:depth])} is a value and has no {part!r}")
        if part not in node:
            known = possible_keys(node, parts[:depth], cfg.get("default_scope"))
            if known is not None and part not in known:
                raise unknown_option(key, ".".join(parts[:depth]), part, known | set(node))
            return
        node = node[part]


def _check_change(cfg: Config, key: str, value: Any) -> None:
    """Raise if a key that exists would get a value of another kind, unless its class takes that kind."""
    *place, last = key.split(".")
    node: Any = cfg._cfg_dict
    for part in place:
        node = node[int(part)] if isinstance(node, list | tuple) else node.get(part, {})
    if isinstance(node, list | tuple):
        check_change(key, node[int(last)], value)
    elif last in node:
        hint, exact = annotation_at(node, last, place, cfg.get("default_scope"))
        if not exact:
            check_change(key, node[last], value, hint)


def _check_bases(path: Path, heirs: tuple[Path, ...] = ()) -> None:
    """Raise if a config inherits from itself. mmengine would follow the circle until Python's stack is full."""
    path = path.resolve()
    if path in heirs:
        raise ConfigError(f"the config {path} inherits from itself, by way of {heirs[-1]}")
    for base in Config._get_base_files(str(path)):
        inherited = path.parent / base
        package, separator, _ = str(base).partition("::")
        if separator and package not in (known := base_configs.known_packages()):
            raise ConfigError(
                f"{path} inherits from {base}, and {package!r} is no such package{nearest(package, known)}"
            )
        check_base(path, base)
        # A base of an installed package has "::" in its name, and inherits within its package.
        if "::" not in base and inherited.suffix in (".py", ".json", ".yaml", ".yml") and os.path.isfile(inherited):
            _check_bases(inherited, (*heirs, path))


def _line_of_config(error: BaseException) -> str:
    """The file and the line of a config that raised an error, in words; nothing if none of its lines was running."""
    frames = list(traceback.walk_tb(error.__traceback__))
    for (caller, _), (frame, line) in itertools.pairwise(frames):
        if caller.f_code is Config._file2dict.__code__ and frame.f_code.co_name == "<module>":
            return f" ({frame.f_code.co_filename}, line {line})"
    return ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
