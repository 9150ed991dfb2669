"""MambaTree-L: the Mamba language model of transformers with a tree scan in every mixer (MambaTree, section 3.3)."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, MambaForCausalLM, MambaModel, MambaPreTrainedModel
from transformers.cache_utils import Cache
from transformers.models.mamba.modeling_mamba import MambaBlock, MambaCausalLMOutput, MambaOutput, MambaRMSNorm

from .configuration import MambaTreeConfig
from .context import PromptEdges, Prompts, find_prompts, prompt_edges
from .mixer import MambaTreeMixer

IGNORED = -100


class MambaTreeBlock(MambaBlock):
    """The norm, the mixer and the residual connection of one layer, as in Mamba.

    Args:
        config: the configuration of the model.
        layer_idx: the number of the layer.
    """

    def __init__(self, config: MambaTreeConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.mixer = MambaTreeMixer(config, layer_idx)

    def forward(  # type: ignore[override]  # it has candidates where MambaBlock takes any options
        self,
        hidden_states: Tensor,  # [B, L, C]
        cache_params: Cache | None = None,
        attention_mask: Tensor | None = None,  # [B, L]
        candidates: PromptEdges | None = None,
    ) -> Tensor:  # [B, L, C]
        """Add the mixer's output to the residual. :meth:`MambaTreeMixer.forward` explains the arguments."""
        if not isinstance(self.mixer, MambaTreeMixer):
            raise ValueError(
                f"the mixer of layer {self.layer_idx} has been replaced by a {type(self.mixer).__name__}, which would "
                "bypass the tree: use tree_scale=0 to switch the tree off"
            )
        residual = hidden_states.float() if self.residual_in_fp32 else hidden_states
        normed = self.norm(hidden_states.to(self.norm.weight.dtype))
        return residual + self.mixer(normed, cache_params, attention_mask, candidates)


class MambaTreePreTrainedModel(MambaPreTrainedModel):
    """The attributes that transformers expects of every model of this family."""

    config: MambaTreeConfig
    config_class = MambaTreeConfig
    # transformers only reads this sequence. A tuple prevents that one class changes it for all others.
    _no_split_modules = ("MambaTreeBlock", "MambaTreeMixer")  # type: ignore[assignment]  # annotated as a list


class MambaTreeModel(MambaTreePreTrainedModel, MambaModel):
    """The network without the language modelling head.

    Args:
        config: the configuration of the model.
    """

    def __init__(self, config: MambaTreeConfig) -> None:
        # The constructor of MambaModel is skipped, because it would first build and initialise plain layers.
        MambaPreTrainedModel.__init__(self, config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(MambaTreeBlock(config, index) for index in range(config.num_hidden_layers))
        self.norm_f = MambaRMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,  # [B, L]
        attention_mask: Tensor | None = None,  # [B, L]
        context_len: Tensor | int | None = None,  # [B]
        inputs_embeds: Tensor | None = None,  # [B, L, C]
        cache_params: Cache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Any, ...] | MambaOutput:
        """Compute the hidden state of every token. :meth:`MambaTreeForCausalLM.forward` explains the arguments."""
        config = self.config
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        fresh = cache_params is None or not cache_params.has_previous_state()
        if use_cache is None:
            use_cache = config.use_cache and not self.training and not (fresh and _ends_in_padding(attention_mask))
        elif use_cache and fresh and _ends_in_padding(attention_mask):
            raise ValueError(
                "the cache keeps the state after the last column, which is padding in some rows: pad on the left "
                "(tokenizer.padding_side='left') or use use_cache=False"
            )
        use_cache = use_cache and not (self.gradient_checkpointing and self.training)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and cache_params is None:
            cache_params = DynamicCache(config=config)
        cache = cache_params if use_cache or not fresh else None
        continues = not fresh
        candidates = None
        if not continues:
            prompts = find_prompts(hidden.shape[:2], hidden.device, attention_mask, context_len, None)
            branching = _may_branch(prompts, context_len)
            candidates = prompt_edges(prompts, hidden.shape[1], config.tree_reach, branching)
        states: list[Tensor] = []
        for layer in self.layers:
            hidden = layer(
                hidden,
                cache_params=cache,
                attention_mask=None if continues else attention_mask,
                candidates=candidates,
            )
            if output_hidden_states:
                states.append(hidden)
        hidden = self.norm_f(hidden)
        every = (*states, hidden) if output_hidden_states else None
        if not (config.return_dict if return_dict is None else return_dict):
            return tuple(part for part in (hidden, cache, every) if part is not None)
        return MambaOutput(last_hidden_state=hidden, cache_params=cache, hidden_states=every)


class MambaTreeForCausalLM(MambaTreePreTrainedModel, MambaForCausalLM):
    """A Mamba language model with h = chain + tree_scale · tree in every mixer.

    The tree is a minimum spanning tree over the prompt. The tokens of the response extend it as a chain. The tree is
    not causal within the prompt. A prompt must therefore be given as a whole, and only the response has a loss. A token
    of the response does not affect any earlier token.

    The model has the same parameters as ``MambaForCausalLM``, and ``from_pretrained`` reads the checkpoints of that
    class.

    Args:
        config: the configuration of the model.
    """

    def __init__(self, config: MambaTreeConfig) -> None:
        MambaPreTrainedModel.__init__(self, config)  # skips the constructor of MambaForCausalLM, as in MambaTreeModel
        self.backbone = MambaTreeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,  # [B, L]
        attention_mask: Tensor | None = None,  # [B, L]
        context_len: Tensor | int | None = None,  # [B]
        labels: Tensor | None = None,  # [B, L]
        inputs_embeds: Tensor | None = None,  # [B, L, C]
        cache_params: Cache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **loss_options: Any,
    ) -> tuple[Any, ...] | MambaCausalLMOutput:
        """Compute the logits of the next token at every token, and the loss on the responses.

        Args:
            input_ids: the tokens. They must contain the whole prompts.
            attention_mask: 1 for tokens and 0 for padding on either side. A cache requires padding on the left.
            context_len: the number of prompt tokens in each row without padding, or one number for all rows. If it is
                None, the prompt is the part of the row before the first label that is not -100. Without labels it is
                the whole row. Tokens that continue a cache always belong to the response.
            labels: the targets; -100 marks tokens without a target. The model shifts them. It ignores targets within a
                prompt, because the tree shows these tokens to the model.
            inputs_embeds: embeddings in place of the tokens.
            cache_params: the states of the rows that these tokens continue.
            use_cache: whether to return such states. By default the configuration decides in evaluation, and training
                returns none. Rows that end in padding also return none by default, because the state after the padding
                is not the state after the last token.
            output_hidden_states: whether to return the hidden states of all layers.
            return_dict: whether to return an object instead of a tuple.
            logits_to_keep: the number of last tokens whose logits are computed, or the indices of the tokens; 0 means
                all tokens.
            loss_options: options for the loss function of transformers, such as ``num_items_in_batch``.

        Raises:
            ValueError: an argument does not fit; the message names the argument.
        """
        if labels is not None and (cache_params is None or not cache_params.has_previous_state()):
            prompts = find_prompts(labels.shape, labels.device, attention_mask, context_len, labels)
            if context_len is None:
                context_len = prompts.end - prompts.start
            labels = _labels_of_responses(labels, prompts)
        outputs = self.backbone(
            input_ids,
            attention_mask=attention_mask,
            context_len=context_len,
            inputs_embeds=inputs_embeds,
            cache_params=cache_params,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden = outputs.last_hidden_state
        if not isinstance(logits_to_keep, int):
            hidden = hidden[:, logits_to_keep]
        elif logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        logits = self.lm_head(hidden.to(self.lm_head.weight.dtype))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **loss_options)
        result = MambaCausalLMOutput(
            loss=loss, logits=logits, cache_params=outputs.cache_params, hidden_states=outputs.hidden_states
        )
        return result if (self.config.return_dict if return_dict is None else return_dict) else result.to_tuple()

    def generate(  # type: ignore[override]  # options contains the other parameters of transformers' method
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **options: Any
    ) -> Any:
        """Generate responses with the ``generate`` method of transformers.

        The model reads the prompts in one pass. Then it generates token by token with the cached states. The options
        may include ``context_len``. By default each row is a prompt as a whole.

        Raises:
            ValueError: an option splits the prompt into chunks. The tree would cover only the first chunk.
        """
        chunk = options.get("prefill_chunk_size") or getattr(generation_config, "prefill_chunk_size", None)
        if chunk or self.generation_config.prefill_chunk_size:
            raise ValueError(
                "prefill_chunk_size would cut the prompt, and the tree would cover its first piece only: leave it out"
            )
        return super().generate(inputs, generation_config, **options)  # type: ignore[misc]  # there self is a protocol

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **options: Any
    ) -> Any:
        # Without a cache every step receives whole rows. The prompt must stay the same as in the first step.
        if model_kwargs.get("context_len") is None:
            mask = model_kwargs.get("attention_mask")
            rows, length = outputs.logits.shape[:2]
            if mask is None:
                mask = torch.ones(rows, length, dtype=torch.int64, device=outputs.logits.device)
            model_kwargs["context_len"] = mask.sum(1)
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **options)


def _labels_of_responses(
    labels: Tensor,  # [B, L]
    prompts: Prompts,
) -> Tensor:
    """Return the labels with -100 within the prompts."""
    place = torch.arange(labels.shape[1], device=labels.device)
    return labels.masked_fill(place < prompts.end.unsqueeze(1), IGNORED)


def _may_branch(prompts: Prompts, context_len: Tensor | int | None) -> bool:
    """Return whether any prompt has at least three tokens. Without ``context_len`` the answer is always yes."""
    if isinstance(context_len, Tensor):
        return bool((prompts.end - prompts.start > 2).any())  # the only wait for the device in a forward pass
    return context_len is None or context_len > 2


def _ends_in_padding(mask: Tensor | None) -> bool:
    return mask is not None and not bool(mask[:, -1].all())
