"""Datasets of text: rows of instruction and response, and plain text cut into blocks.

A sample is ``{"inputs": Tensor [L], "data_samples": {"context_len": int, "index": int}}``. ``inputs`` holds the tokens
of the prompt and the response, and ``context_len`` is the number of tokens of the prompt.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.logging import MMLogger
from torch import Tensor
from torch.utils.data import Dataset

from ssm_core.errors import ConfigError, DataError
from ssm_train.registry import DATASETS, FUNCTIONS, TASK_UTILS

Part = Literal["train", "held_out"]
_FIELDS = ("instruction", "input", "output")


class TokenRows(Dataset):
    """Rows of tokens with the length of their prompts.

    Args:
        rows: tokens of each row, and how many of them are the prompt.
        names: name of each row in messages.
        tokenizer: the tokenizer that made the tokens.
    """

    def __init__(self, rows: list[tuple[list[int], int]], names: list[str], tokenizer: Any):
        self.rows = rows
        self.names = names
        self.tokenizer = tokenizer

    @property
    def metainfo(self) -> dict:
        """The size of the vocabulary, which mmengine passes to metrics and checkpoints."""
        return {"vocabulary": len(self.tokenizer)}

    def name(self, index: int) -> str:
        """The name of a row in messages: its number and its file."""
        return self.names[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        tokens, context_len = self.rows[index]
        return {"inputs": torch.tensor(tokens), "data_samples": {"context_len": context_len, "index": index}}


@DATASETS.register_module()
class InstructionRows(TokenRows):
    """Instructions and responses in Alpaca's format: a JSON list, or JSON lines, of instruction, input and output.

    Args:
        path: the file.
        tokenizer: config of the tokenizer, whose ``type`` is in the registry ``TASK_UTILS`` or a full path.
        template: the texts of the prompts, ``with_input`` for rows that have an input and ``without_input`` for the
            others. The fields of a row are inserted for ``{instruction}`` and ``{input}``.
        max_length: largest number of tokens of a row. Longer responses are cut.
        part: ``"held_out"`` is every ``held_out_every``-th row, ``"train"`` all others.
        held_out_every: see ``part``. 0 holds nothing out; both parts are then the whole file.
        faulty: what to do with a row that has no instruction, no response, or a prompt that leaves no room for a
            response. ``"raise"`` stops, ``"skip"`` leaves such rows out and counts them.

    Raises:
        DataError: the file is missing or damaged, or a row is faulty.
        ConfigError: ``faulty``, ``part`` or ``template`` has a value that is not allowed.
    """

    def __init__(
        self,
        path: str,
        tokenizer: dict,
        template: dict[str, str],
        max_length: int = 2048,
        part: Part = "train",
        held_out_every: int = 0,
        faulty: Literal["raise", "skip"] = "raise",
    ):
        if faulty not in ("raise", "skip"):
            raise ConfigError(f"a dataset's faulty is 'raise' or 'skip', not {faulty!r}")
        _check_template(template)
        self.path = path
        self.template = dict(template)
        self.max_length = max_length
        self.tokenizer = TASK_UTILS.build(tokenizer)
        rows, names, faults = [], [], Counter()
        for number, row in _numbered(_read_rows(path), part, held_out_every):
            made = self._tokenize(row)
            if isinstance(made, str):
                if faulty == "raise":
                    raise DataError(f"row {number} of {path} {made}; faulty='skip' leaves such rows out")
                faults[made] += 1
                continue
            rows.append(made)
            names.append(f"row {number} of {path}")
        for fault, count in faults.items():
            MMLogger.get_current_instance().warning(f"left out {count} rows of {path}: each {fault}")
        if not rows:
            raise DataError(f"{path} has no usable row for the part {part!r}")
        super().__init__(rows, names, self.tokenizer)

    def prompt(self, row: dict[str, str]) -> str:
        """The text before a row's response."""
        key = "with_input" if row["input"].strip() else "without_input"
        return self.template[key].format(instruction=row["instruction"], input=row["input"])

    def _tokenize(self, row: dict[str, str]) -> tuple[list[int], int] | str:
        """Tokens and prompt length, or what is wrong with the row."""
        if not row["instruction"].strip():
            return "has an empty prompt"
        if not row["output"].strip():
            return "has no response"
        # Tokenized separately, so that no token spans the end of the prompt.
        prompt = self.tokenizer.encode(self.prompt(row), add_special_tokens=False)
        response = [*self.tokenizer.encode(row["output"], add_special_tokens=False), self.tokenizer.eos_token_id]
        if len(prompt) >= self.max_length:
            length = self.max_length
            return f"has a prompt that leaves no room for a response in max_length={length} ({len(prompt)} tokens)"
        return (prompt + response)[: self.max_length], len(prompt)


@DATASETS.register_module()
class TextBlocks(TokenRows):
    """A text file, cut into blocks of equal length without prompts. A shorter rest at the end is dropped.

    Args:
        path: the file, in UTF-8.
        tokenizer: see :class:`InstructionRows`.
        length: number of tokens of a block.
        part: ``"held_out"`` is the end of the file, ``"train"`` what comes before it.
        held_out: fraction of the blocks that is held out.

    Raises:
        DataError: the file is missing or too short.
        ConfigError: there is no such part.
    """

    def __init__(
        self,
        path: str,
        tokenizer: dict,
        length: int = 512,
        part: Part = "train",
        held_out: float = 0.05,
    ):
        tokenizer = TASK_UTILS.build(tokenizer)
        tokens = tokenizer.encode(_read_text(path), add_special_tokens=False)
        blocks = [tokens[i : i + length] for i in range(0, len(tokens) - length + 1, length)]
        kept = len(blocks) - round(held_out * len(blocks))
        chosen = range(kept) if _checked(part) == "train" else range(kept, len(blocks))
        if not chosen:
            raise DataError(f"{path} has {len(tokens)} tokens, too few for a block of {length} in the part {part!r}")
        super().__init__([(blocks[i], 0) for i in chosen], [f"block {i} of {path}" for i in chosen], tokenizer)


@FUNCTIONS.register_module()
def pad_rows(samples: list[dict]) -> dict[str, Any]:
    """Collate rows into a batch, padded on the right.

    The padding is token 0. Its meaning does not matter, because the mask keeps the model from reading it.

    Args:
        samples: samples of a :class:`TokenRows`.

    Returns:
        ``inputs`` [B, L], and ``data_samples`` with ``attention_mask`` [B, L], ``context_len`` [B] and ``index`` [B].
    """
    rows: list[Tensor] = [sample["inputs"] for sample in samples]
    lengths = torch.tensor([len(row) for row in rows])
    inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = (torch.arange(inputs.shape[1]) < lengths.unsqueeze(1)).long()
    numbers = {
        key: torch.tensor([sample["data_samples"][key] for sample in samples]) for key in ("context_len", "index")
    }
    return {"inputs": inputs, "data_samples": {"attention_mask": mask, **numbers}}


def _check_template(template: dict[str, str]) -> None:
    if set(template) != {"with_input", "without_input"}:
        raise ConfigError(
            f"a prompt template has the keys with_input and without_input, not {', '.join(sorted(template)) or 'none'}"
        )
    for key, text in template.items():
        try:
            text.format(instruction="", input="")
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigError(
                f"the prompt template {key} may have {{instruction}} and {{input}} in braces and nothing else, "
                f"but formatting it fails with {type(error).__name__}: {error}"
            ) from error


def _checked(part: Part) -> Part:
    if part not in ("train", "held_out"):
        raise ConfigError(f"a dataset's part is 'train' or 'held_out', not {part!r}")
    return part


def _numbered(rows: list[dict], part: Part, every: int) -> list[tuple[int, dict]]:
    """The rows of a part with their numbers in the file."""
    numbered = list(enumerate(rows))
    _checked(part)
    return [pair for pair in numbered if not every or (pair[0] % every == every - 1) == (part == "held_out")]


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"there is no data file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the data file {path}: {error}") from error


def _read_rows(path: str) -> list[dict[str, str]]:
    """The rows of a file, with every field as text."""
    text = _read_text(path)
    try:
        if Path(path).suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is no list of rows with {', '.join(_FIELDS)}")
    return [{field: str(row.get(field) or "") for field in _FIELDS} for row in rows]
