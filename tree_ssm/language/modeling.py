"""MambaTree-L: transformers' Mamba language model with a tree scan in every mixer (MambaTree, section 3.3)."""

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
    """Norm, mixer and residual of one layer, as in Mamba.

    Args:
        config: the model's.
        layer_idx: number of the layer.
    """

    def __init__(self, config: MambaTreeConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.mixer = MambaTreeMixer(config, layer_idx)

    def forward(  # type: ignore[override]  # the edges of the tree stand where MambaBlock takes any options
        self,
        hidden_states: Tensor,  # [B, L, C]
        cache_params: Cache | None = None,
        attention_mask: Tensor | None = None,  # [B, L]
        candidates: PromptEdges | None = None,
    ) -> Tensor:  # [B, L, C]
        """Add to the residual what the mixer makes of the tokens; see :meth:`MambaTreeMixer.forward`."""
        if not isinstance(self.mixer, MambaTreeMixer):
            raise ValueError(
                f"the mixer of layer {self.layer_idx} has been replaced by a {type(self.mixer).__name__}, which would "
                "bypass the tree: use tree_scale=0 to switch the tree off"
            )
        residual = hidden_states.float() if self.residual_in_fp32 else hidden_states
        normed = self.norm(hidden_states.to(self.norm.weight.dtype))
        return residual + self.mixer(normed, cache_params, attention_mask, candidates)


class MambaTreePreTrainedModel(MambaPreTrainedModel):
    """What transformers asks of every model of this family."""

    config: MambaTreeConfig
    config_class = MambaTreeConfig
    # A tuple, which no class can change for another; transformers only reads it.
    _no_split_modules = ("MambaTreeBlock", "MambaTreeMixer")  # type: ignore[assignment]  # annotated as a list


class MambaTreeModel(MambaTreePreTrainedModel, MambaModel):
    """The network without the language modelling head.

    Args:
        config: the model's.
    """

    def __init__(self, config: MambaTreeConfig) -> None:
        # Not MambaModel's, which would build and initialise plain layers first.
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
        """Hidden states of every token; the arguments are those of :meth:`MambaTreeForCausalLM.forward`."""
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

    The tree is a minimum spanning tree over the prompt, continued by the response as a chain. Within the prompt it is
    not causal: a prompt has to be given whole, and losses are taken on the response alone. A response token reaches no
    token before it. Parameters are those of ``MambaForCausalLM``, whose checkpoints ``from_pretrained`` reads.

    Args:
        config: the model's.
    """

    def __init__(self, config: MambaTreeConfig) -> None:
        MambaPreTrainedModel.__init__(self, config)  # see MambaTreeModel
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
        """Logits of the next token at every token, and the loss on the responses.

        Args:
            input_ids: the tokens, prompts whole.
            attention_mask: 1 for tokens, 0 for padding on either side; on the left where a cache is used.
            context_len: tokens of each row that are its prompt, padding not counted, or one number for all rows. If
                left out, a prompt is what comes before the first label other than -100, or without labels the whole
                row. Tokens that continue a cache are response tokens, whatever is said here.
            labels: targets, shifted inside; -100 where there is none. Targets within a prompt are left out, since the
                tree has seen them.
            inputs_embeds: embeddings in place of the tokens.
            cache_params: states of the rows that these tokens continue.
            use_cache: return such states. By default the config's in evaluation, and never in training or where rows
                end in padding, whose state is not that of their last token.
            output_hidden_states: return the hidden states of all layers.
            return_dict: return an object instead of a tuple.
            logits_to_keep: compute the logits of that many last tokens only, or of these; 0 for all.
            loss_options: handed on to transformers' loss, such as ``num_items_in_batch``.

        Raises:
            ValueError: an argument does not fit; the message says which.
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

    def generate(  # type: ignore[override]  # what else transformers takes is among the options
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **options: Any
    ) -> Any:
        """transformers' ``generate``: the prompts in one pass, then token by token with the cached states.

        ``context_len`` may be given; by default the whole of each row is its prompt.

        Raises:
            ValueError: the prompt is to be read in pieces, of which only the first would be in the tree.
        """
        chunk = options.get("prefill_chunk_size") or getattr(generation_config, "prefill_chunk_size", None)
        if chunk or self.generation_config.prefill_chunk_size:
            raise ValueError(
                "prefill_chunk_size would cut the prompt, and the tree would cover its first piece only: leave it out"
            )
        return super().generate(inputs, generation_config, **options)  # type: ignore[misc]  # self is a protocol there

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **options: Any
    ) -> Any:
        # Without a cache every step gives whole rows: what was the prompt in the first has to stay it.
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
    """The labels, -100 within the prompts."""
    place = torch.arange(labels.shape[1], device=labels.device)
    return labels.masked_fill(place < prompts.end.unsqueeze(1), IGNORED)


def _may_branch(prompts: Prompts, context_len: Tensor | int | None) -> bool:
    """Whether any prompt has three tokens; a prompt that is the whole row is taken to have them."""
    if isinstance(context_len, Tensor):
        return bool((prompts.end - prompts.start > 2).any())  # the one wait for the device in a forward pass
    return context_len is None or context_len > 2


def _ends_in_padding(mask: Tensor | None) -> bool:
    return mask is not None and not bool(mask[:, -1].all())
