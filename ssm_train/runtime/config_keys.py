"""Keys of configs that are not the arguments of a class. Importing this is fast: it needs no other package."""

from collections.abc import Collection
from typing import Any, Literal, TypedDict, get_type_hints

from ssm_core.errors import ConfigError, nearest

# Keys that the Runner reads from the whole config, besides the arguments of mmengine's Runner.
RUNNER_EXTRAS = {
    "activation_checkpointing", "compile", "custom_imports", "efficient_conv_bn_eval", "find_unused_parameters",
    "model_wrapper_cfg", "process_timeout", "runner_type", "sharding", "sync_bn",
}  # fmt: skip
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
# Keys of loaders, besides the arguments of torch's DataLoader.
OWN_LOADER_KEYS: dict[str, Any] = {
    "num_batch_per_epoch": int | None, "disable_subprocess_warning": bool, "unreadable": Literal["skip", "raise"],
    "num_workers": int | None,
}  # fmt: skip


class MultiProcessing(TypedDict, total=False):
    """How worker processes start: ``env_cfg.mp_cfg``."""

    mp_start_method: Literal["fork", "spawn", "forkserver"]
    opencv_num_threads: int


class Sharding(TypedDict, total=False):
    """The config's ``sharding`` (:mod:`.sharding`).

    Attributes:
        param_dtype: the precision in which weights are gathered for a block, and in which its inputs come. With
            ``float32``, the default, ``optim_wrapper.dtype`` alone decides what is computed in bfloat16, as without
            sharding. ``bfloat16`` halves the bytes, and rounds what autocast would leave in float32. The shards stay
            in float32.
        reduce_dtype: the precision in which gradients are summed; ``float32`` by default.
        reshard_after_forward: whether the gathered weights of a block are freed until its backward pass, as by default.
    """

    param_dtype: Literal["float32", "bfloat16"]
    reduce_dtype: Literal["float32", "bfloat16"]
    reshard_after_forward: bool


# The keys of dictionaries that no class takes, with what they are.
PLAIN: dict[str, dict[str, Any]] = {
    "auto_scale_lr": {"base_batch_size": int, "enable": bool},
    "sharding": get_type_hints(Sharding),
    "randomness": {"seed": int | None, "diff_rank_seed": bool, "deterministic": bool},
    "env_cfg": {"cudnn_benchmark": bool, "mp_cfg": MultiProcessing, "dist_cfg": dict, "resource_limit": int},
}


def check_top_key(key: str, known: Collection[str]) -> None:
    """Check that a top-level key of a config is no misspelt one. A config may have variables of its own.

    Args:
        key: the key.
        known: those that the Runner reads.

    Raises:
        ConfigError: the first letters, the last letter and the length agree with those of a known key.
    """
    if key in known or not (hint := nearest(key, known)):
        return
    suggestion = hint.split("'")[1]
    if abs(len(key) - len(suggestion)) <= 2 and key[:2] == suggestion[:2] and key[-1] == suggestion[-1]:
        raise ConfigError(f"the config has an unknown key {key!r}{hint}")


def option_key(option: str) -> str:
    """The dotted key of a text ``key=value`` of a command line.

    Raises:
        ConfigError: it is no such text.
    """
    key, equals, _ = option.partition("=")
    if not equals or not key:
        raise ConfigError(f"--cfg-options takes KEY=VALUE, not {option!r}")
    return key


def unknown_option(key: str, place: str, part: str, candidates: Collection[str]) -> ConfigError:
    """The error for a dotted key of a command line that leads nowhere.

    Args:
        key: the whole key.
        place: what comes before the unknown part; empty for the top of the config.
        part: the unknown part.
        candidates: what may be there.
    """
    return ConfigError(f"--cfg-options {key}: {place or 'the config'} has no {part!r}{nearest(part, candidates)}")


def no_index(key: str, place: str, count: int) -> ConfigError:
    """The error for a dotted key of a command line that leads into a list, and has no index of it.

    Args:
        key: the whole key.
        place: what comes before the index.
        count: the length of the list.
    """
    return ConfigError(f"--cfg-options {key}: {place} is a list of {count}; give an index below that")
