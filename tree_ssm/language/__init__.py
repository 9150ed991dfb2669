"""MambaTree-L: a Mamba language model that scans a tree over its prompt in addition to the sequence of its tokens.

Importing this package registers its classes with the ``Auto`` classes of transformers. It needs the extra ``lm``.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .configuration import MambaTreeConfig
from .loading import add_lora, create_network, load_network, load_tokenizer, merge_adapters, save_network
from .modeling import MambaTreeForCausalLM, MambaTreeModel

AutoConfig.register(MambaTreeConfig.model_type, MambaTreeConfig, exist_ok=True)
AutoModel.register(MambaTreeConfig, MambaTreeModel, exist_ok=True)
AutoModelForCausalLM.register(MambaTreeConfig, MambaTreeForCausalLM, exist_ok=True)

__all__ = [
    "MambaTreeConfig",
    "MambaTreeForCausalLM",
    "MambaTreeModel",
    "add_lora",
    "create_network",
    "load_network",
    "load_tokenizer",
    "merge_adapters",
    "save_network",
]
