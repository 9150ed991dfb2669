"""What a language model writes during training."""

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ssm_train.registry import HOOKS
from ssm_train.runtime.loops import is_shown


@HOOKS.register_module()
class TextSamplesHook(Hook):
    """Lets a language model answer the first held-out prompts, and hands a table ``samples`` to the visualizer.

    A row is the prompt, the answer (the likeliest token each time) and what the data have there. Plain text has no
    prompts: the beginning of a block is taken for one. The table is made at the validations of :class:`PicturesHook`.

    Args:
        count: rows; 0 for none.
        new_tokens: of an answer, at most.
        opening: tokens taken of plain text.
    """

    priority = "LOW"

    def __init__(self, count: int = 4, new_tokens: int = 64, opening: int = 32):
        self.count = count
        self.new_tokens = new_tokens
        self.opening = opening

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the table, if it is due."""
        if not (self.count and is_main_process() and is_shown(runner)):
            return
        dataset = runner.val_dataloader.dataset
        rows = [self._row(runner, *dataset.rows[i]) for i in range(min(self.count, len(dataset)))]
        runner.visualizer.add_table("samples", ("prompt", "answer", "reference"), rows, runner.iter)

    @torch.no_grad()
    def _row(self, runner: Runner, tokens: list[int], context_len: int) -> tuple[str, str, str]:
        network, tokenizer = runner.bare_model.backbone, runner.val_dataloader.dataset.tokenizer
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
