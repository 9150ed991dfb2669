"""Loads, creates and saves networks and tokenizers. A network can have LoRA adapters."""

import dataclasses
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from ssm_core.described import described_shapes
from ssm_core.errors import CheckpointError, ConfigError
from ssm_core.folders import CONFIG, PATTERNS, read_json, read_weights
from ssm_core.hub import local_folder
from ssm_core.weights import check_finite, misfit

from .configuration import EdgeDecay, MambaTreeConfig
from .modeling import MambaTreeForCausalLM
from .tokenizer_file import FILES, read_tokenizer

# The layers that have adapters in the paper.
LORA_TARGETS = ("x_proj", "in_proj", "out_proj", "embeddings")
# What is read of a config.json. Other entries of transformers name files, code and kernels to load.
_KNOWN = {field.name for field in dataclasses.fields(MambaTreeConfig)} - {
    field.name for field in dataclasses.fields(PreTrainedConfig)
} | {"tie_word_embeddings"}


def load_tokenizer(
    path: str, pad_token: str | None = None, chat_template: str | None = None
) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or from the Hub.

    The folder may come from anywhere: only its ``tokenizer.json`` and its special tokens are read.

    Args:
        path: a folder or the name of a repository on the Hub.
        pad_token: the token for padding. A tokenizer without its own padding token needs it.
        chat_template: the Jinja template that makes a text of a conversation, or the name of its file, which ends in
            ``.jinja``. The folder's own is read if it is named here: a template may take any time.

    Raises:
        CheckpointError: there is no tokenizer, or its file is none that is read from anywhere.
        ConfigError: it lacks the token for padding or the token that ends a response, or the file of the chat template
            cannot be read.
    """
    tokenizer = read_tokenizer(local_folder(path, FILES))
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise ConfigError(f"pad_token={pad_token!r} is not in the vocabulary of the tokenizer {path}")
        tokenizer.pad_token = pad_token
    if chat_template is not None:
        tokenizer.chat_template = _template_text(chat_template)
    if tokenizer.eos_token is None:
        raise ConfigError(f"the tokenizer {path} has no eos token, which ends a response: add one to it")
    if tokenizer.pad_token is None:
        raise ConfigError(
            f"the tokenizer {path} has no pad token: name one of its tokens, such as "
            f"tokenizer.pad_token={tokenizer.eos_token!r}"
        )
    return tokenizer


def _template_text(template: str) -> str:
    """The text of a chat template, or of its file."""
    if not template.endswith(".jinja"):
        return template
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the chat template {template}: {error}") from error


def load_network(
    path: str,
    tree_scale: float | None = None,
    tree_decay: EdgeDecay | None = None,
    lora: dict[str, Any] | None = None,
    gradient_checkpointing: bool = False,
    compile_layers: bool = False,
) -> nn.Module:
    """Load a pretrained Mamba or MambaTree-L.

    Args:
        path: a folder that ``save_pretrained`` wrote, or a name on the Hub such as ``"state-spaces/mamba-130m-hf"``.
        tree_scale: the factor of the tree; 0 gives a plain Mamba. None means the value in the model's configuration. A
            plain Mamba has no such value and gets 0.3.
        tree_decay: see :class:`MambaTreeConfig`. None means the value in the model's configuration.
        lora: the arguments of :func:`add_lora`, or None for no adapters. Adapters freeze all other weights.
        gradient_checkpointing: whether to keep only the inputs of the layers. The backward pass recomputes the rest.
        compile_layers: whether torch.compile fuses the elementwise operations of each layer. Many of them work on the
            states of the tree.

    Raises:
        CheckpointError: there is no such model, or it is not a Mamba with exactly the weights of its config.
    """
    folder = local_folder(path, PATTERNS)
    config = read_json(folder / CONFIG)
    if config.get("model_type") not in ("mamba", "mambatree"):
        raise CheckpointError(f"{path} is a {config.get('model_type')}, not a Mamba of transformers")
    arguments = {name: config[name] for name in _KNOWN if name in config}
    arguments |= {k: v for k, v in (("tree_scale", tree_scale), ("tree_decay", tree_decay)) if v is not None}
    state = _named(read_weights(folder), tied=arguments.get("tie_word_embeddings", True) is True)
    layers = arguments.get("num_hidden_layers", 1)
    if type(layers) is not int or not 0 < layers <= len(state):
        raise CheckpointError(f"{path} describes {layers} layers and has {len(state)} tensors, fewer than one for each")
    expected = described_shapes(_described, arguments, state, folder)
    names, words = misfit(expected, state)
    if names:
        raise CheckpointError(
            f"{path} does not fit its MambaTreeConfig: {len(names)} tensors differ, the first: {words}"
        )
    check_finite(state, folder)
    with _no_progress_bars():
        network = MambaTreeForCausalLM.from_pretrained(
            None, config=MambaTreeConfig(**arguments), state_dict=state, dtype=torch.float32
        )
    network.config.name_or_path = path
    return _prepare(network, lora, gradient_checkpointing, compile_layers)


def _described(**arguments: Any) -> nn.Module:
    try:
        config = MambaTreeConfig(**arguments)
    except StrictDataclassError as error:  # of transformers' own checks of the types
        raise TypeError(" ".join(str(error).split())) from error
    return MambaTreeForCausalLM(config)


def _named(state: dict[str, Tensor], tied: bool) -> dict[str, Tensor]:
    """Weights under the names of the whole model, also of files without a head and of older ones.

    Args:
        state: the weights of a file.
        tied: whether the head has the weights of the embeddings.
    """
    state = {re.sub(r"\bembedding\.weight$", "embeddings.weight", name): tensor for name, tensor in state.items()}
    if not any(name.startswith("backbone.") for name in state):
        state = {name if name.startswith("lm_head.") else f"backbone.{name}": tensor for name, tensor in state.items()}
    embeddings = state.get("backbone.embeddings.weight")
    if tied and embeddings is not None:
        state.setdefault("lm_head.weight", embeddings)
    return state


def create_network(
    tokenizer: str,
    hidden_size: int,
    num_hidden_layers: int,
    state_size: int = 16,
    tree_scale: float = 0.0,
    gradient_checkpointing: bool = False,
    compile_layers: bool = False,
) -> nn.Module:
    """Create a network with new weights. They are initialised as the authors of Mamba do it.

    Args:
        tokenizer: the folder or Hub name of the tokenizer, which determines the size of the vocabulary.
        hidden_size: the width C.
        num_hidden_layers: the number of layers.
        state_size: the number N of states per channel.
        tree_scale: the factor of the tree. In text without prompts the tree is the same as the chain.
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
    """Add low-rank adapters to a network. Only the adapters are trained.

    Args:
        network: the network, which is changed in place.
        r: the rank of the adapters.
        alpha: the output of the adapters is scaled by alpha / r.
        dropout: the dropout rate of the adapters' inputs.
        targets: the names of the layers that get adapters.
    """
    settings = LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), bias="none", task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        # peft 0.21 reads an attribute that transformers 5.23 has deprecated.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(network, settings)


def merge_adapters(network: nn.Module) -> MambaTreeForCausalLM:
    """Add the adapters of a network to its weights. The logits change only by rounding.

    The language modelling head may share its weight with the embeddings. If the embeddings have an adapter, the head
    gets its own copy of the weight, because that adapter must change only the embeddings.
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
    """Write a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` can read.

    Args:
        network: a network from this module. Its adapters are merged in place.
        folder: the folder to write.
        tokenizer: the tokenizer of the network.
    """
    with _no_progress_bars():
        merge_adapters(network).save_pretrained(os.fspath(folder))
    tokenizer.save_pretrained(os.fspath(folder))


def _prepare(
    network: MambaTreeForCausalLM, lora: dict[str, Any] | None, gradient_checkpointing: bool, compile_layers: bool
) -> nn.Module:
    if gradient_checkpointing:
        # transformers before 5.23 has only the second method.
        enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if compile_layers:
        for layer in network.backbone.layers:
            layer.compile(dynamic=True)  # the length of the rows differs between batches
    if lora is None:
        return network
    return add_lora(network, **lora)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Switch off the progress bars of transformers, which appear even for files that load at once."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
