"""Language models as a task."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ssm_core.errors import ConfigError
from ssm_train.runtime.files import write_text_atomically
from ssm_train.tasks.base import Size, Task

_DEFAULT_LENGTH = 1024  # tokens of a row, if the config says nothing


class Language(Task):
    """Predicts the next token of a row of tokens."""

    unit = "row"

    @property
    def needs_values(self) -> bool:
        """True, because the trees depend on the values of the tokens."""
        return True

    def has_scans(self, model: nn.Module) -> bool:
        """True, because every language model of this project has scans."""
        return True

    @property
    def comes_with_weights(self) -> bool:
        """Whether the config names a pretrained network."""
        return self.cfg.model.get("backbone", {}).get("path") is not None

    def default_size(self) -> Size:
        """The number of tokens of the longest test row."""
        dataset = (self.cfg.get("test_dataloader") or {}).get("dataset", {})
        return (dataset.get("max_length", dataset.get("length", _DEFAULT_LENGTH)),)

    def example_input(self, size: Size, batch: int, device: torch.device | str = "cpu") -> Tensor:  # [B, L]
        """Make rows of random tokens."""
        if len(size) != 1 or size[0] < 1:
            raise ConfigError(f"--size takes a number of tokens for this model, got {' '.join(map(str, size))}")
        return torch.randint(2, 100, (batch, *size), device=device)

    def describe(self, size: Size) -> str:
        """Describe a size as a number of tokens."""
        return f"{size[0]} tokens"

    def measure(
        self,
        model: nn.Module,
        inputs: Tensor,  # [B, L]
    ) -> None:
        """Run the network. The first half of a row is its prompt."""
        context = torch.full(inputs.shape[:1], inputs.shape[1] // 2, device=inputs.device)
        model(inputs, {"attention_mask": torch.ones_like(inputs), "context_len": context}, mode="tensor")

    def draw_sample(self, sample: dict, dataset: Any, settings: Config, place: Path) -> Path:
        """Write a row as text, with what is prompt and what is response under separate headings."""
        tokens, parts, place_in_row = sample["inputs"], [], 0
        for first, end in sample["data_samples"]["responses"]:
            parts += [("prompt", tokens[place_in_row:first]), ("response", tokens[first:end])]
            place_in_row = end
        if place_in_row < len(tokens):
            parts.append(("prompt", tokens[place_in_row:]))
        path = place.with_name(f"{place.name}.txt")
        texts = (f"--- {name}, {len(part)} tokens\n{dataset.tokenizer.decode(part)}\n" for name, part in parts)
        write_text_atomically(path, "".join(texts))
        return path
