"""Networks and tokenizers from folders, from hub names or from sizes, with or without LoRA; and back into folders."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from ssm_core.errors import ConfigError

from .configuration import EdgeDecay, MambaTreeConfig
from .modeling import MambaTreeForCausalLM

# Where the paper puts adapters.
LORA_TARGETS = ("x_proj", "in_proj", "out_proj", "embeddings")


def load_tokenizer(path: str, pad_token: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or a hub name.

    Args:
        path: the folder or name.
        pad_token: what to pad with, for a tokenizer that has no such token of its own.

    Raises:
        ConfigError: there is none, or it has no token to pad or to end a response with.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"there is no tokenizer in {path}: {_first_line(error)}") from error
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise ConfigError(f"pad_token={pad_token!r} is not in the vocabulary of the tokenizer {path}")
        tokenizer.pad_token = pad_token
    if tokenizer.eos_token is None:
        raise ConfigError(f"the tokenizer {path} has no eos token, which ends a response: add one to it")
    if tokenizer.pad_token is None:
        raise ConfigError(
            f"the tokenizer {path} has no pad token: name one of its tokens, such as "
            f"tokenizer.pad_token={tokenizer.eos_token!r}"
        )
    return tokenizer


def load_network(
    path: str,
    tree_scale: float | None = None,
    tree_decay: EdgeDecay | None = None,
    lora: dict[str, Any] | None = None,
    gradient_checkpointing: bool = False,
    compile_layers: bool = False,
) -> nn.Module:
    """A pretrained Mamba or MambaTree-L, its tree switched on or off, and with LoRA all else frozen.

    Args:
        path: a folder of ``save_pretrained``, or a hub name such as ``"state-spaces/mamba-130m-hf"``.
        tree_scale: factor of the tree; 0 is plain Mamba. By default what the model was saved with, 0.3 for a Mamba.
        tree_decay: see :class:`MambaTreeConfig`; by default what the model was saved with.
        lora: arguments of :func:`add_lora`; None for none.
        gradient_checkpointing: keep only the inputs of the layers and compute the rest again in the backward pass.
        compile_layers: let torch.compile fuse what is elementwise in each layer, much of it around the tree's states.

    Raises:
        ConfigError: there is no such model.
    """
    try:
        config, _ = MambaTreeConfig.get_config_dict(path)
        if config.get("model_type") not in ("mamba", "mambatree"):
            raise ConfigError(f"{path} is a {config.get('model_type')}, not a Mamba of transformers")
        chosen = {"tree_scale": tree_scale, "tree_decay": tree_decay}
        config |= {key: value for key, value in chosen.items() if value is not None}
        with _no_progress_bars():
            network = MambaTreeForCausalLM.from_pretrained(
                path, config=MambaTreeConfig.from_dict(config), dtype=torch.float32
            )
    except OSError as error:
        raise ConfigError(f"there is no pretrained model {path}: {_first_line(error)}") from error
    return _prepare(network, lora, gradient_checkpointing, compile_layers)


def create_network(
    tokenizer: str,
    hidden_size: int,
    num_hidden_layers: int,
    state_size: int = 16,
    tree_scale: float = 0.0,
    gradient_checkpointing: bool = False,
    compile_layers: bool = False,
) -> nn.Module:
    """A network with fresh weights, as the authors of Mamba initialise theirs.

    Args:
        tokenizer: folder or hub name of the tokenizer, which gives the size of the vocabulary.
        hidden_size: width C.
        num_hidden_layers: layers.
        state_size: states N of a channel.
        tree_scale: factor of the tree; on text without prompts the tree is the chain.
        gradient_checkpointing: see :func:`load_network`.
        compile_layers: see :func:`load_network`.
    """
    text = load_tokenizer(tokenizer)
    config = MambaTreeConfig(
        vocab_size=len(text),
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        state_size=state_size,
        tree_scale=tree_scale,
        initializer_range=0.02,
        rescale_prenorm_residual=True,
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
    )
    return _prepare(MambaTreeForCausalLM(config), None, gradient_checkpointing, compile_layers)


def add_lora(
    network: MambaTreeForCausalLM,
    r: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
    targets: Sequence[str] = LORA_TARGETS,
) -> PeftModel:
    """The network with low-rank adapters, which alone are trained.

    Args:
        network: changed in place.
        r: rank.
        alpha: the adapters' output is scaled by alpha / r.
        dropout: of the adapters' inputs.
        targets: names of the layers.
    """
    settings = LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), bias="none", task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 by a name that is to go.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(network, settings)


def merge_adapters(network: nn.Module) -> MambaTreeForCausalLM:
    """The network with its adapters added to the weights, which changes no logit beyond rounding.

    A language modelling head that shares its weight with the embeddings gets a copy of its own where these have an
    adapter, since that adapter changes what goes in and not what comes out.
    """
    if not isinstance(network, PeftModel):
        return cast(MambaTreeForCausalLM, network)
    base: Any = network.get_base_model()
    embeddings = base.get_input_embeddings()
    if hasattr(embeddings, "base_layer") and base.config.tie_word_embeddings:
        base.lm_head.weight = nn.Parameter(base.lm_head.weight.detach().clone())
        base.config.tie_word_embeddings = False
    return cast(MambaTreeForCausalLM, network.merge_and_unload())


def save_network(network: nn.Module, folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` read, adapters merged.

    Args:
        network: of this module; its adapters are merged in place.
        folder: where to.
        tokenizer: its tokenizer.
    """
    with _no_progress_bars():
        merge_adapters(network).save_pretrained(os.fspath(folder))
    tokenizer.save_pretrained(os.fspath(folder))


def _prepare(
    network: MambaTreeForCausalLM, lora: dict[str, Any] | None, gradient_checkpointing: bool, compile_layers: bool
) -> nn.Module:
    if gradient_checkpointing:
        # Its name before transformers 5.23 is the second.
        enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if compile_layers:
        for layer in network.backbone.layers:
            layer.compile(dynamic=True)  # rows differ in length from batch to batch
    if lora is None:
        return network
    return add_lora(network, **lora)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers draws one for every file, also of an eye's blink."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
