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
        """Write a row as text, with the prompt and the response under separate headings."""
        tokens, split = sample["inputs"], sample["data_samples"]["context_len"]
        prompt, response = (dataset.tokenizer.decode(part) for part in (tokens[:split], tokens[split:]))
        path = place.with_name(f"{place.name}.txt")
        lengths = (split, len(tokens) - split)
        parts = zip(("prompt", "response"), lengths, (prompt, response), strict=True)
        write_text_atomically(path, "".join(f"--- {name}, {length} tokens\n{text}\n" for name, length, text in parts))
        return path
