"""A hook that shows what a language model writes during training."""

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ssm_train.registry import HOOKS
from ssm_train.runtime.loops import is_shown


@HOOKS.register_module()
class TextSamplesHook(Hook):
    """Lets a language model answer the first held-out prompts, and passes a table ``samples`` to the visualizer.

    A row of the table has a prompt, the answer by greedy decoding, and the response in the data. Plain text has no
    prompts, so that the beginning of a block is used as one. The table is made at the first, second, fourth, eighth …
    and last validation, like the pictures of :class:`.PicturesHook`.

    Args:
        count: number of rows; 0 for none.
        new_tokens: largest number of tokens of an answer.
        opening: number of tokens of plain text that are used as a prompt.
    """

    priority = "LOW"

    def __init__(self, count: int = 4, new_tokens: int = 64, opening: int = 32):
        self.count = count
        self.new_tokens = new_tokens
        self.opening = opening

    @property
    def needs_whole_weights(self) -> bool:
        """Whether one process runs the network alone, which cannot be where its weights are sharded."""
        return self.count > 0

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Make the table, if this validation shows it."""
        if not (self.count and is_main_process() and is_shown(runner)):
            return
        dataset = runner.val_dataloader.dataset
        rows = [self._row(runner, dataset[i]) for i in range(min(self.count, len(dataset)))]
        runner.visualizer.add_table("samples", ("prompt", "answer", "reference"), rows, runner.iter)

    @torch.no_grad()
    def _row(self, runner: Runner, sample: dict) -> tuple[str, str, str]:
        network, tokenizer = runner.bare_model.backbone, runner.val_dataloader.dataset.tokenizer
        context_len, end = sample["data_samples"]["context_len"], sample["data_samples"]["responses"][0][1]
        tokens = sample["inputs"][:end].tolist()  # up to the end of the first response
        opening = context_len or min(self.opening, len(tokens) // 2)
        prompt = torch.tensor([tokens[:opening]], device=next(network.parameters()).device)
        written = network.generate(
            input_ids=prompt,
            context_len=torch.tensor([context_len], device=prompt.device),
            max_new_tokens=self.new_tokens,
            do_sample=False,
        )
        parts = tokens[:opening], written[0, opening:], tokens[opening:][: self.new_tokens]
        return tuple(tokenizer.decode(part, skip_special_tokens=True) for part in parts)
