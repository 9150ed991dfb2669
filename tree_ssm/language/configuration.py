"""The configuration of MambaTree-L: transformers' MambaConfig and the settings of the tree."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import MambaConfig

EdgeDecay = Literal["next", "own"]
ChainBackend = Literal["auto", "cuda", "cpu", "reference", "mamba_ssm"]


@strict
class MambaTreeConfig(MambaConfig):
    """The configuration of a Mamba whose mixers also scan a tree over the prompt (MambaTree, section 3.3).

    The configuration has all values of ``MambaConfig``, so that it can read the ``config.json`` of a plain Mamba. The
    added values change no parameter of the network, so that every Mamba checkpoint fits.

    Args:
        tree_scale: the factor of the tree's states: h = chain + tree_scale · tree. 0 gives a plain Mamba.
        tree_reach: the largest distance in tokens between two prompt tokens that an edge may join.
        tree_decay: the decay on the edge from token t to its parent. ``"next"`` is Ā of token t + 1, which the released
            model uses. With it, a tree that is a chain gives exactly the states of Mamba. ``"own"`` is Ā of token t, as
            Algorithm 2 is printed in the paper.
        chain_backend: the implementation of the chain. ``"auto"`` uses the kernel of mamba-ssm on a GPU if that package
            is installed, and otherwise the best implementation of :func:`ssm_core.ops.selective_scan`.

    Raises:
        ValueError: a value is out of its range, or it asks for an implementation of Mamba that cannot use a tree.
    """

    model_type = "mambatree"

    tree_scale: float = 0.3
    tree_reach: int = 3
    tree_decay: EdgeDecay = "next"
    chain_backend: ChainBackend = "auto"

    def __post_init__(self, **kwargs: Any) -> None:
        self.tree_scale = float(self.tree_scale)
        super().__post_init__(**kwargs)
        self.__dict__.pop("model_type", None)  # a plain Mamba's file sets it to "mamba", which would be saved
        if self.tree_reach < 1:
            raise ValueError(f"MambaTreeConfig: tree_reach must be at least 1, got {self.tree_reach}")
        if self.use_mambapy:
            raise ValueError(
                "MambaTreeConfig: use_mambapy=True asks for a scan that knows no tree: leave it out, and choose the "
                "chain's implementation with chain_backend"
            )
