"""Building objects from a config, with an error of one sentence for everything that is wrong with the config."""

import re
import textwrap
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch._functorch import config as functorch_settings

from ssm_core.errors import ConfigError, DataError, MissingPackageError, UserError
from ssm_train.registry import SCOPE
from ssm_train.runtime.layout import PieceSampler

# What constructors raise for arguments that they refuse. Sizes that no machine has overflow or cannot be allocated.
_REFUSALS = (
    TypeError,
    ValueError,
    LookupError,
    AssertionError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    re.error,
)
_LONGEST = 400  # characters of a message: some libraries print the whole config


@contextmanager
def building_from_config() -> Iterator[None]:
    """Turn every exception of a constructor into one error, because the arguments come from a config.

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
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(
            f"the config names {error.filename}, which cannot be read: {error.strerror or error}"
        ) from error
    except _REFUSALS as error:
        # An assertion without a message gets its source line as message.
        message = " ".join(str(error).split()) or traceback.extract_tb(error.__traceback__)[-1].line
        shortened = textwrap.shorten(f"{type(error).__name__}: {message}", _LONGEST, placeholder=" …")
        raise ConfigError(f"the config cannot be built: {shortened}") from error


@contextmanager
def building_in_scope(scope: str) -> Iterator[None]:
    """:func:`building_from_config`, with a registry scope in which types are looked up first.

    Args:
        scope: see :func:`scope_of`.

    Raises:
        ConfigError: see :func:`building_from_config`.
        MissingPackageError: see :func:`building_from_config`.
    """
    with DefaultScope.overwrite_default_scope(scope), building_from_config():
        yield


def scope_of(cfg: Config) -> str:
    """The registry scope in which the types of a config are looked up: ``ssm_train`` unless it names another one."""
    return cfg.get("default_scope", SCOPE)


def describe_model(model: Mapping) -> str:
    """A short name for the model in a config: the type and the variant of its backbone."""
    model = trained_part(model)
    network = model.get("backbone", model)
    variant = network.get("arch", network.get("name"))
    kind = network.get("type", "model")
    return f"{kind} '{variant}'" if isinstance(variant, str) else str(kind)


def trained_part(model: Mapping[str, Any]) -> Any:
    """The config of the model that is trained. Models for augmented or tiled tests are wrappers around it.

    Args:
        model: the config of the model.
    """
    return model.get("module", model)


def runs_as_graphs(runner: Runner) -> bool:
    """Whether a compiled network can run as CUDA graphs, which have fixed shapes and memory of their own.

    Batches of training then have one shape, and gradients do not outlive their iteration: those of a graph are
    overwritten by the next run of the graph.

    Args:
        runner: the Runner.
    """
    sampler = runner.train_dataloader.batch_sampler
    sampler = getattr(sampler, "batch_sampler", sampler)
    return (
        getattr(runner.bare_model, "fixed_shapes", False)
        and getattr(sampler, "drop_last", False)
        and not isinstance(sampler, PieceSampler)
        and getattr(runner.optim_wrapper, "_accumulative_counts", 0) == 1
    )


def compile_parts(model: nn.Module, options: bool | Mapping[str, Any]) -> None:
    """Compile the backbone of a model, and other modules with ``compiles_with_backbone``, each on its own.

    In a whole training step, the optimizer and the log would break the graph. Modules are compiled in place, so that
    the names of parameters, the checkpoints and the averaged model do not change. What torch has compiled, it keeps in
    the folder ``TORCHINDUCTOR_CACHE_DIR`` for later processes.

    Args:
        model: the model.
        options: the config's ``compile``: False, True or the arguments of ``torch.compile``.

    Raises:
        ConfigError: ``torch.compile`` refused its arguments.
    """
    if options is False:
        return
    # torch keeps no traced graph with an autograd.Function by default. Those of this project are traced whole, with
    # their backward passes, and nothing beyond the graph decides what they do. (Versions of torch differ in the name.)
    if hasattr(functorch_settings, "autograd_cache_allow_custom_autograd_functions"):
        functorch_settings.autograd_cache_allow_custom_autograd_functions = True
    others = [module for module in model.modules() if getattr(module, "compiles_with_backbone", False)]
    with building_from_config():
        for module in (model.backbone, *others):
            module.compile(**({} if options is True else options))
