"""MambaTree-L as a model of lm-evaluation-harness, which tells the network the length of every prompt.

The harness knows only models whose module was imported. This module therefore also runs its command line:

    python -m ssm_train.tasks.language.harness run --model mambatree_l --model_args pretrained=FOLDER --tasks piqa
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tree_ssm.language import load_network, load_tokenizer

Request = tuple[tuple[str, str] | None, list[int], list[int]]


@register_model("mambatree_l")
class MambaTreeLM(TemplateLM):
    """Log-likelihoods of continuations after prompts, and generated text.

    The tree of the network is built over the context of a request. Text without a context, such as a document whose
    perplexity is measured, is scored as a response to the end-of-text token.

    Args:
        pretrained: a network, or its folder or name on the hub.
        tokenizer: the tokenizer, or its folder or name on the hub; by default that of ``pretrained``.
        tree_scale: see :func:`load_network`. It is used only if ``pretrained`` is a folder or a name.
        batch_size: number of requests in a batch.
        max_length: largest number of tokens of a request. A longer prompt loses its beginning.
        max_batch_size: not used; the harness passes it to every model.
        device: device to run on. By default it is where a given network is, or a GPU if there is one.
        dtype: precision of the weights, as torch names it; by default it is not changed.
    """

    def __init__(
        self,
        pretrained: str | nn.Module,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        tree_scale: float | None = None,
        batch_size: int | str = 16,
        max_length: int = 2048,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(pretrained, str):
            tokenizer = pretrained if tokenizer is None else tokenizer
            pretrained = load_network(pretrained, tree_scale)
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
        self.network = pretrained.to(device=device, dtype=None if dtype is None else getattr(torch, dtype)).eval()
        self._device = next(self.network.parameters()).device
        self.batch_size = int(batch_size)
        self.max_length = int(max_length)

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token. It also precedes a text without context."""
        return self.tokenizer.eos_token_id

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer in the names of cached requests."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_options: Any) -> list[int]:
        """Tokens of a text, without special tokens."""
        return self.tokenizer.encode(string, add_special_tokens=False)

    def _loglikelihood_tokens(self, requests: Sequence[Request], **_options: Any) -> list[tuple[float, bool]]:
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        results: dict[int, tuple[float, bool]] = {}
        for batch in _batches(order, self.batch_size):
            scored = self._score([requests[i] for i in batch])
            for i, result in zip(batch, scored, strict=True):
                results[i] = result
                if requests[i][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], result)
        return [results[i] for i in range(len(requests))]

    @torch.inference_mode()
    def _score(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """Log-likelihood of every continuation, and whether greedy decoding gives the same text."""
        rows, contexts = [], []
        for _, context, continuation in requests:
            row = (context + continuation)[-(self.max_length + 1) :]
            rows.append(torch.tensor(row))
            contexts.append(max(len(row) - len(continuation), 1))
        lengths = torch.tensor([len(row) - 1 for row in rows])
        inputs = torch.nn.utils.rnn.pad_sequence([row[:-1] for row in rows], batch_first=True)
        mask = (torch.arange(inputs.shape[1]) < lengths.unsqueeze(1)).long()
        logits = self.network(
            input_ids=inputs.to(self._device),
            attention_mask=mask.to(self._device),
            context_len=torch.tensor(contexts).to(self._device),
            use_cache=False,
        ).logits
        results = []
        for row, start, scores in zip(rows, contexts, logits, strict=True):
            target = row[start:].to(self._device)
            log_p = scores[start - 1 : len(row) - 1].float().log_softmax(-1)
            total = log_p.gather(1, target.unsqueeze(1)).sum()
            results.append((float(total), bool((log_p.argmax(-1) == target).all())))
        return results

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole documents, in windows that do not overlap."""
        totals = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            parts = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(score for score, _ in self._loglikelihood_tokens(parts)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate texts up to a stop sequence. Decoding is greedy unless a request asks for sampling."""
        order = sorted(range(len(requests)), key=lambda i: (repr(requests[i].args[1]), -len(requests[i].args[0])))
        results: dict[int, str] = {}
        for batch in _batches(order, self.batch_size, lambda i: repr(requests[i].args[1])):
            options = requests[batch[0]].args[1]
            texts = self._generate([requests[i].args[0] for i in batch], options)
            for i, text in zip(batch, texts, strict=True):
                results[i] = text
                self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return [results[i] for i in range(len(requests))]

    @torch.inference_mode()
    def _generate(self, contexts: Sequence[str], options: dict[str, Any]) -> list[str]:
        options = dict(options)
        until = options.pop("until", None) or []
        until = [until] if isinstance(until, str) else list(until)
        new = int(options.pop("max_gen_toks", options.pop("max_new_tokens", 256)))
        if not options.get("do_sample"):
            options = {"do_sample": False}
        rows = [self.tok_encode(text)[-(self.max_length - new) :] or [self.prefix_token_id] for text in contexts]
        inputs, mask = self._pad_left(rows)
        if until:
            options |= {"stop_strings": until, "tokenizer": self.tokenizer}
        out = self.network.generate(
            input_ids=inputs, attention_mask=mask, max_new_tokens=new, pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.eot_token_id, **options,
        )  # fmt: skip
        texts = self.tokenizer.batch_decode(out[:, inputs.shape[1] :], skip_special_tokens=True)
        return [_cut(text, until) for text in texts]

    def _pad_left(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        length = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        inputs = torch.tensor([[pad] * (length - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        return inputs.to(self._device), mask.to(self._device)


def _batches(order: Sequence[int], size: int, key: Any = lambda _: None) -> Iterator[list[int]]:
    """Split a sequence into batches of at most ``size`` neighbours with the same key."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == size or key(i) != key(batch[0])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _cut(text: str, until: Sequence[str]) -> str:
    """The text before the first stop sequence in it."""
    for stop in until:
        text = text.split(stop)[0] if stop else text
    return text


if __name__ == "__main__":
    cli_evaluate()
