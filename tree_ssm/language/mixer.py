"""Mamba's mixer with a second scan, which follows a tree over the prompt."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.models.mamba.modeling_mamba import MambaMixer

from ssm_core.ops import selective_scan
from ssm_core.ops.checks import accumulate_dtype
from tree_ssm.ops import subtree_scan

from .configuration import MambaTreeConfig
from .context import PromptEdges, grow_tree
from .kernels import causal_convolution, continued_convolution, resolve_chain_backend


class MambaTreeMixer(MambaMixer):
    """A mixer whose states are h = chain + tree_scale · tree (MambaTree, Algorithm 2).

    It has the same parameters as the mixer of transformers.

    Args:
        config: the configuration of the model.
        layer_idx: the number of the layer, which is also its index in a cache.
    """

    config: MambaTreeConfig

    def __init__(self, config: MambaTreeConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters without weight decay: those of the dynamics."""
        return {"A_log", "D"}

    def forward(
        self,
        hidden_states: Tensor,  # [B, L, C]
        cache_params: Cache | None = None,
        attention_mask: Tensor | None = None,  # [B, L]
        candidates: PromptEdges | None = None,
    ) -> Tensor:  # [B, L, C]
        """Mix the tokens of whole rows, or tokens that continue the rows in the cache.

        Args:
            hidden_states: the tokens.
            cache_params: the states of the rows so far. They are updated in place.
            attention_mask: 0 for padding and 1 for tokens.
            candidates: the edges that the tree may have. None means that the tokens continue a cache and extend the
                tree as a chain.

        Raises:
            ValueError: there are neither candidates nor a cache, or an adapter wraps a layer that must stay plain.
        """
        self._refuse_adapters()
        x, gate = self.in_proj(hidden_states).chunk(2, dim=-1)
        if candidates is None:
            if cache_params is None:
                raise ValueError("tokens without candidates continue a cache, and there are no cache_params")
            y = self._continue(x, cache_params)
        else:
            y = self._scan_rows(x, cache_params, attention_mask, candidates)
        return self.out_proj(y.to(x.dtype) * self.act(gate))

    def _scan_rows(
        self,
        x: Tensor,  # [B, L, D]
        cache: Cache | None,
        mask: Tensor | None,  # [B, L]
        candidates: PromptEdges,
    ) -> Tensor:  # [B, L, D]
        mask = None if mask is None else mask.unsqueeze(-1).to(x.dtype)
        x = x if mask is None else x * mask
        if cache is not None:
            cache.update_conv_state(x.transpose(1, 2), self.layer_idx, conv_kernel_size=self.conv_kernel_size)
        x = causal_convolution(x, self.conv1d, self.activation)
        x = x if mask is None else x * mask
        dt, B, C = self._project(x)
        A = self._decay()
        y, chain = selective_scan(
            x.transpose(1, 2),
            dt.transpose(1, 2),
            A,
            B.transpose(1, 2),
            C.transpose(1, 2),
            self.D,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            return_last_state=True,
            backend=resolve_chain_backend(self.config.chain_backend, x.device),
        )
        y = y.transpose(1, 2)
        if self.config.tree_scale == 0:
            tree_state = torch.zeros_like(chain)
        else:
            of_tree, tree_state = self._scan_tree(x, dt, A, B, C, candidates, (y, chain))
            y = torch.add(y, of_tree.to(y.dtype), alpha=self.config.tree_scale)
        if cache is not None:
            state = self._for_next(tree_state.to(chain.dtype), dt[:, -1], A)
            cache.update_recurrent_state(torch.cat([chain, state], dim=-1), self.layer_idx)
        return y

    def _scan_tree(
        self,
        x: Tensor,  # [B, L, D]
        dt: Tensor,  # [B, L, D]
        A: Tensor,  # [D, N]
        B: Tensor,  # [B, L, N]
        C: Tensor,  # [B, L, N]
        candidates: PromptEdges,
        chain: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Grow the tree and scan along it. Return the output ``[B, L, D]`` and the last state ``[B, D, N]``.

        ``chain`` is the output of the chain, which includes D·x, and the last state of the chain.
        """
        next_step = self.config.tree_decay == "next"
        if next_step and not candidates.branching:
            return chain[0] - (self.D * x).to(chain[0].dtype), chain[1]
        dt, B, C = (t.to(x.dtype) for t in (dt, B, C))
        bias = self._dt_bias()
        # Autocast would round the tensors that have to stay in float32 for accuracy.
        with torch.autocast(x.device.type, enabled=False):
            tree = grow_tree(x, dt, bias, B, candidates)
            return subtree_scan(x, dt, A, B, C, bias, tree, next_step)

    def _continue(
        self,
        x: Tensor,  # [B, L, D]
        cache: Cache,
    ) -> Tensor:  # [B, L, D]
        """Continue from the cached states, token by token. These tokens form a chain in the tree as well."""
        length = x.shape[1]
        window = cache.update_conv_state(x.transpose(1, 2), self.layer_idx, conv_kernel_size=self.conv_kernel_size)
        window = window[..., -(self.conv_kernel_size - 1 + length) :].to(x.dtype)
        x = continued_convolution(window, self.conv1d, self.activation)
        dt, B, C = self._project(x)
        delta, A = self._step_size(dt), self._decay()
        wide = delta.dtype
        x_wide, B, C = x.to(wide), B.to(wide), C.to(wide)
        states: Any = cache.layers[self.layer_idx]  # a cache layer of linear attention, although its type is wider
        chain, tree = states.recurrent_states[0].to(wide).chunk(2, dim=-1)
        outputs = []
        for t in range(length):
            decay = torch.exp(delta[:, t].unsqueeze(-1) * A)  # [B, D, N]
            u = (delta[:, t] * x_wide[:, t]).unsqueeze(-1) * B[:, t].unsqueeze(1)
            chain = decay * chain + u
            tree = (decay * tree if self.config.tree_decay == "next" else tree) + u
            h = chain + self.config.tree_scale * tree
            outputs.append((h * C[:, t].unsqueeze(1)).sum(-1))
            tree = self._for_next(tree, dt[:, t], A)
        cache.update_recurrent_state(torch.cat([chain, tree], dim=-1), self.layer_idx)
        return torch.stack(outputs, dim=1) + self.D.to(wide) * x_wide

    def _for_next(
        self,
        tree: Tensor,  # [B, D, N]
        dt: Tensor,  # [B, D]
        A: Tensor,  # [D, N]
    ) -> Tensor:  # [B, D, N]
        """Return the state of the tree that the next token will read.

        With ``tree_decay="own"`` this state includes the decay of the present token. With ``"next"`` the next token
        applies its own decay.
        """
        if self.config.tree_decay == "next":
            return tree
        return torch.exp(self._step_size(dt).unsqueeze(-1) * A).to(tree.dtype) * tree

    def _project(
        self,
        x: Tensor,  # [B, L, D]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute Δ ``[B, L, D]`` before bias and softplus, and B and C ``[B, L, N]``."""
        dt, B, C = self.x_proj(x).split([self.time_step_rank, self.ssm_state_size, self.ssm_state_size], dim=-1)
        return F.linear(dt, self.dt_proj.weight), B, C

    def _decay(self) -> Tensor:
        """Return A ``[D, N]`` in float32 or wider."""
        return -torch.exp(self.A_log.to(accumulate_dtype(self.A_log.dtype)))

    def _dt_bias(self) -> Tensor:
        """Return the bias ``[D]`` of Δ in float32 or wider."""
        return self.dt_proj.bias.to(accumulate_dtype(self.dt_proj.bias.dtype))

    def _step_size(
        self,
        dt: Tensor,  # [..., D]
    ) -> Tensor:  # [..., D]
        """Compute Δ in float32 or wider."""
        return F.softplus(dt.to(accumulate_dtype(dt.dtype)) + self._dt_bias())

    def _refuse_adapters(self) -> None:
        """Raise an error if an adapter wraps a layer whose weight is read directly. It would have no effect there."""
        for name, plain in (("dt_proj", nn.Linear), ("conv1d", nn.Conv1d)):
            kind = type(getattr(self, name))
            if kind is not plain:
                raise ValueError(
                    f"the weight of {name} in layer {self.layer_idx} is read directly, so that a {kind.__name__} there "
                    "would be bypassed: adapt in_proj, x_proj, out_proj or embeddings"
                )
