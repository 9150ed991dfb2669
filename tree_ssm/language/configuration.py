"""The configuration of MambaTree-L: transformers' MambaConfig and what the tree adds."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import MambaConfig

EdgeDecay = Literal["next", "own"]
ChainBackend = Literal["auto", "cuda", "cpu", "reference", "mamba_ssm"]


@strict
class MambaTreeConfig(MambaConfig):
    """A Mamba language model whose mixers add a scan along a tree of the prompt (MambaTree, section 3.3).

    All of ``MambaConfig``'s values hold, and a plain Mamba's ``config.json`` can be read as one of these. The added
    values change no parameter: any Mamba checkpoint fits.

    Args:
        tree_scale: factor of the tree's states beside the chain's, h = chain + tree_scale · tree; 0 is plain Mamba.
        tree_reach: prompt tokens at most so far apart may be joined by an edge.
        tree_decay: the decay on the edge from token t to its parent: ``"next"`` is Ā of token t + 1, what the
            released model uses and what makes a chain exactly Mamba's; ``"own"`` is Ā of token t, as the paper's
            Algorithm 2 is printed.
        chain_backend: implementation of the chain; ``"auto"`` is mamba-ssm's kernel on a GPU where that package is
            installed, else the best of :func:`ssm_core.ops.selective_scan`.

    Raises:
        ValueError: a value cannot be, or asks for an implementation of Mamba that knows no tree.
    """

    model_type = "mambatree"

    tree_scale: float = 0.3
    tree_reach: int = 3
    tree_decay: EdgeDecay = "next"
    chain_backend: ChainBackend = "auto"

    def __post_init__(self, **kwargs: Any) -> None:
        self.tree_scale = float(self.tree_scale)
        super().__post_init__(**kwargs)
        self.__dict__.pop("model_type", None)  # that of a plain Mamba's file, which would be saved as it is
        if self.tree_reach < 1:
            raise ValueError(f"MambaTreeConfig: tree_reach must be at least 1, got {self.tree_reach}")
        if self.use_mambapy:
            raise ValueError(
                "MambaTreeConfig: use_mambapy=True asks for a scan that knows no tree: leave it out, and choose the "
                "chain's implementation with chain_backend"
            )
