"""Datasets of text: rows of prompts and responses, and plain text cut into blocks.

A sample is ``{"inputs": Tensor [L], "data_samples": {"context_len": int, "index": int, "responses": list}}``.
``inputs`` holds the tokens of a row, ``context_len`` is the number of tokens before its first response, and
``responses`` has the first token and the end of every response.

The tokens are made once, when a training starts, and are in a temporary file. So all that is wrong with the rows is
known before the first iteration, a row is the same whichever worker loads it, and a file may be larger than the memory.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.logging import MMLogger
from torch import Tensor
from torch.utils.data import Dataset

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.datasets.row_tokens import RowTokenizer, RowTokens
from ssm_train.data.json_rows import JsonRow, UnusableRow, check_encoding, json_rows
from ssm_train.data.token_store import TokenRow, TokenStore
from ssm_train.registry import DATASETS, FUNCTIONS, TASK_UTILS

Part = Literal["train", "held_out"]
IGNORED = -100  # the label of tokens that are not learnt
_AT_ONCE = 256  # rows that are tokenized at a time
_PIECE = 2**24  # characters of plain text that are tokenized at a time
_LAST_WORD = re.compile(r".*[^\W_](?=\s)", re.DOTALL)  # up to the last word that a blank follows
_NEAR = 2**16  # characters at the end of a piece in which that word is looked for


class TokenRows(Dataset):
    """Rows of tokens with the places of their responses.

    Args:
        store: the rows.
        tokenizer: the tokenizer that made the tokens.
        path: the file of the rows, for messages.
        unit: what a row is called in messages.
        chosen: the places in the store of the rows of this dataset; None for all.
    """

    def __init__(self, store: TokenStore, tokenizer: Any, path: str, unit: str = "row", chosen: range | None = None):
        self.store = store
        self.tokenizer = tokenizer
        self.path = path
        self.unit = unit
        self.chosen = range(len(store)) if chosen is None else chosen

    @property
    def metainfo(self) -> dict:
        """The size of the vocabulary, which mmengine passes to metrics and checkpoints."""
        return {"vocabulary": len(self.tokenizer)}

    def row(self, index: int) -> TokenRow:
        """The row at an index.

        Raises:
            IndexError: the dataset has no such index. This ends a loop over the dataset.
        """
        return self.store[self.chosen[index]]

    def name(self, index: int) -> str:
        """The name of a row in messages: its number and its file."""
        row = self.row(index)
        return _name(self.unit, row.number, row.line, self.path)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict:
        row = self.row(index)
        sample = {"context_len": row.context_len, "index": index, "responses": row.responses}
        return {"inputs": torch.from_numpy(row.tokens.astype("int64")), "data_samples": sample}


@DATASETS.register_module()
class InstructionRows(TokenRows):
    """Instructions and conversations with their responses, in a file of JSON: a list of rows, or JSON lines.

    A row is an instruction with ``instruction``, ``input`` and ``output``, or with other names that are usual. Or it is
    a conversation: a list of ``messages`` with ``role`` and ``content``, or of ``conversations`` with ``from`` and
    ``value``. Every response of a conversation is learnt; system prompts and the messages of users are not.

    Args:
        path: the file.
        tokenizer: config of the tokenizer, whose ``type`` is in the registry ``TASK_UTILS`` or a full path. Its chat
            template makes the text of conversations.
        template: the texts of the prompts of instructions, ``with_input`` for rows that have an input and
            ``without_input`` for the others. The fields of a row are inserted for ``{instruction}`` and ``{input}``.
            Without a template, and for rows with a system prompt or a history, an instruction is a conversation.
        max_length: largest number of tokens of a row. Longer rows are cut at the end, which is said once.
        part: ``"held_out"`` is every ``held_out_every``-th row, ``"train"`` all others.
        held_out_every: see ``part``. 0 holds nothing out; both parts are then the whole file.
        faulty: what to do with a row that is not understood, has no prompt or no response, or a prompt that leaves no
            room for a response. ``"raise"`` stops, ``"skip"`` leaves such rows out and counts them.
        columns: names of the file's columns by their meaning, where they are not the usual ones. The meanings are
            ``instruction``, ``input``, ``output``, ``messages``, ``system`` and ``history``.

    Raises:
        DataError: the file is missing or damaged, or a row is faulty, or more than half of the rows are.
        ConfigError: ``faulty``, ``part``, ``columns`` or ``template`` has a value that is not allowed, or there are
            conversations and no chat template.
    """

    def __init__(
        self,
        path: str,
        tokenizer: dict,
        template: dict[str, str] | None = None,
        max_length: int = 2048,
        part: Part = "train",
        held_out_every: int = 0,
        faulty: Literal["raise", "skip"] = "raise",
        columns: dict[str, str] | None = None,
    ):
        if faulty not in ("raise", "skip"):
            raise ConfigError(f"a dataset's faulty is 'raise' or 'skip', not {faulty!r}")
        super().__init__(TokenStore(), TASK_UTILS.build(tokenizer), path)
        row_tokenizer = RowTokenizer(self.tokenizer, template, columns or {}, max_length)
        report = _Report(path)
        rows = _of_part(json_rows(path), part, held_out_every)
        while some := list(islice(rows, _AT_ONCE)):
            for row, made in zip(some, row_tokenizer.tokenize(some), strict=True):
                if isinstance(made, RowTokens):
                    self.store.append(made.tokens, made.responses, row.number, row.line)
                    report.count(made)
                    continue
                name = _name(self.unit, row.number, row.line, path)
                if faulty == "raise":
                    raise DataError(f"{name} {made}; faulty='skip' leaves such rows out")
                report.leave_out(name, made)
        report.check()
        if not len(self.store):
            raise DataError(f"{path} has no usable row for the part {part!r}")
        report.say(max_length)
        self.chosen = range(len(self.store))


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
        super().__init__(TokenStore(), TASK_UTILS.build(tokenizer), path, unit="block")
        tokens: list[int] = []
        count = 0
        for piece in text_pieces(path):
            new = self.tokenizer.encode(piece, add_special_tokens=False)
            tokens, count = tokens + new, count + len(new)
            blocks = len(tokens) // length
            for start in range(0, blocks * length, length):
                self.store.append(tokens[start : start + length], [(0, length)], len(self.store))
            tokens = tokens[blocks * length :]
        kept = len(self.store) - round(held_out * len(self.store))
        self.chosen = range(kept) if _checked(part) == "train" else range(kept, len(self.store))
        if not self.chosen:
            raise DataError(f"{path} has {count} tokens, too few for a block of {length} in the part {part!r}")


@FUNCTIONS.register_module()
def pad_rows(samples: list[dict]) -> dict[str, Any]:
    """Collate rows into a batch, padded on the right.

    The padding is token 0. Its meaning does not matter, because the mask keeps the model from reading it.

    Args:
        samples: samples of a :class:`TokenRows`. One without ``responses`` is a response from its ``context_len`` on.

    Returns:
        ``inputs`` [B, L], and ``data_samples`` with ``attention_mask`` [B, L], ``labels`` [B, L], ``context_len`` [B]
        and ``index`` [B]. The labels are the tokens of the responses, and -100 elsewhere.
    """
    rows: list[Tensor] = [sample["inputs"] for sample in samples]
    lengths = torch.tensor([len(row) for row in rows])
    inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = (torch.arange(inputs.shape[1]) < lengths.unsqueeze(1)).long()
    labels = torch.full_like(inputs, IGNORED)
    for place, (row, sample) in enumerate(zip(rows, samples, strict=True)):
        numbers = sample["data_samples"]
        for first, end in numbers.get("responses", [(numbers["context_len"], len(row))]):
            labels[place, first:end] = row[first:end]
    places = {
        key: torch.tensor([sample["data_samples"][key] for sample in samples]) for key in ("context_len", "index")
    }
    return {"inputs": inputs, "data_samples": {"attention_mask": mask, "labels": labels, **places}}


def text_pieces(path: str | Path, size: int = _PIECE) -> Iterator[str]:
    """Read a text file in pieces, so that it may be larger than the memory.

    A piece ends behind a word, before a blank. Tokenizers that split a text into words before anything else make the
    same tokens of the pieces as of the whole.

    Args:
        path: the file, in UTF-8 with or without a byte order mark.
        size: the number of characters that are read at a time.

    Raises:
        DataError: the file is missing or unreadable.
    """
    try:
        with open(path, "rb") as file:
            check_encoding(file, path)
        with open(path, encoding="utf-8-sig") as text:
            rest = ""
            while more := text.read(size):
                rest += more
                if len(more) < size:
                    continue
                found = _LAST_WORD.match(rest, max(len(rest) - _NEAR, 0))
                end = found.end() if found else len(rest)
                yield rest[:end]
                rest = rest[end:]
            if rest:
                yield rest
    except FileNotFoundError:
        raise DataError(f"there is no data file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the data file {path}: {error}") from error


class _Report:
    """Counts what became of the rows of a file, and says it once.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.rows = self.cut = self.left_off = self.open = 0
        self.faults: Counter[str] = Counter()
        self.first: dict[str, str] = {}  # the first row of every kind of fault, in words

    def count(self, made: RowTokens) -> None:
        """Count a row that is used."""
        self.rows += 1
        self.cut += made.is_cut
        self.left_off += made.is_shortened
        self.open += not made.is_closed

    def leave_out(self, name: str, fault: UnusableRow) -> None:
        """Count a row that is left out."""
        self.rows += 1
        self.faults[fault.kind] += 1
        self.first.setdefault(fault.kind, f"{name} {fault}")

    def check(self) -> None:
        """Raise a :class:`DataError` if more than half of the rows are left out."""
        lost = self.faults.total()
        if 2 * lost > self.rows:
            raise DataError(
                f"{lost} of {self.rows} rows cannot be used, which is more than half; {next(iter(self.first.values()))}"
            )

    def say(self, max_length: int) -> None:
        """Log everything that a user has to know about the rows."""
        logger, of = MMLogger.get_current_instance(), f"of {self.rows} rows of {self.path}"
        for kind, count in self.faults.items():
            logger.warning(f"left out {count} {of}: each {kind}; the first is {self.first[kind]}")
        if self.cut:
            logger.info(f"cut {self.cut} {of} at max_length={max_length} tokens")
        if self.left_off:
            logger.info(f"left off what follows the last response in {self.left_off} {of}")
        if self.open:
            logger.warning(
                f"the last response of {self.open} {of} does not end in the tokenizer's eos token, so that the model "
                "does not learn to stop there: the chat template has to write eos_token behind a response"
            )


def _checked(part: Part) -> Part:
    if part not in ("train", "held_out"):
        raise ConfigError(f"a dataset's part is 'train' or 'held_out', not {part!r}")
    return part


def _name(unit: str, number: int, line: int, path: str) -> str:
    return f"{unit} {number} of {path}" + (f" (line {line})" if line else "")


def _of_part(rows: Iterator[JsonRow], part: Part, every: int) -> Iterator[JsonRow]:
    _checked(part)
    return (row for row in rows if not every or (row.number % every == every - 1) == (part == "held_out"))
