"""Building objects from a config, so that whatever is wrong with the config becomes one sentence."""

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ssm_core.errors import ConfigError, MissingPackageError, UserError
from ssm_train.registry import SCOPE


@contextmanager
def building_from_config() -> Iterator[None]:
    """Turn the many exceptions of constructors into one: their arguments came from a config.

    Raises:
        ConfigError: a constructor refused its arguments.
        MissingPackageError: a package that the config needs is not installed.
    """
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise MissingPackageError(str(error.name), "this config") from error
    except (TypeError, ValueError, KeyError, AssertionError, AttributeError, RuntimeError) as error:
        # A bare assertion has no message: its source line says what it asserts.
        message = " ".join(str(error).split()) or traceback.extract_tb(error.__traceback__)[-1].line
        raise ConfigError(f"the config cannot be built: {type(error).__name__}: {message}") from error


@contextmanager
def building_in_scope(scope: str) -> Iterator[None]:
    """:func:`building_from_config`, with types looked up in a registry scope first.

    Args:
        scope: see :func:`scope_of`.
    """
    with DefaultScope.overwrite_default_scope(scope), building_from_config():
        yield


def scope_of(cfg: Config) -> str:
    """The registry scope in which a config's types are looked up: ``ssm_train``, ``mmdet`` or ``mmseg``."""
    return cfg.get("default_scope", SCOPE)


def describe_model(model: Mapping) -> str:
    """Short name of the model in a config: the backbone's type and variant."""
    model = model.get("module", model)  # the model that is tested with augmentation
    network = model.get("backbone", model)
    variant = network.get("arch", network.get("name"))
    kind = network.get("type", "model")
    return f"{kind} '{variant}'" if isinstance(variant, str) else str(kind)
