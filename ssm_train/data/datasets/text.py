"""Datasets of text: rows of prompts and responses, and plain text cut into blocks.

A sample is ``{"inputs": Tensor [L], "data_samples": {"context_len": int, "index": int, "responses": list}}``.
``inputs`` holds the tokens of a row, ``context_len`` is the number of tokens before its first response, and
``responses`` has the first token and the end of every response.

The tokens are made once, when a training starts, and are in a temporary file, or in one that later starts read. So all
that is wrong with the rows is known before the first iteration, a row is the same whichever worker loads it, and a file
may be larger than the memory.
"""

import io
import re
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.datasets.row_report import RowReport
from ssm_train.data.datasets.row_tokens import RowTokenizer, RowTokens
from ssm_train.data.huggingface import files_of, load_table, table_rows
from ssm_train.data.json_rows import JsonRow, json_rows
from ssm_train.data.opened import DAMAGED, open_data
from ssm_train.data.token_cache import TokenCache
from ssm_train.data.token_store import TokenRow, TokenStore
from ssm_train.registry import DATASETS, FUNCTIONS, TASK_UTILS

Part = Literal["train", "held_out"]
IGNORED = -100  # the label of tokens that are not learnt
_AT_ONCE = 256  # rows that are tokenized at a time
_PIECE = 2**20  # characters of plain text that are tokenized at a time
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
        split: the split of a dataset of Hugging Face, whose folder or name ``path`` then is, see :func:`.load_table`;
            None for a file.
        subset: see :func:`.load_table`.
        revision: see :func:`.load_table`.
        token_cache: a folder in which the tokens are kept for later starts; None keeps none.

    Raises:
        DataError: the file is missing or damaged, or a row is faulty, or more than half of the rows are.
        MissingPackageError: the package datasets is needed and not installed.
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
        split: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        token_cache: str | None = None,
    ):
        if faulty not in ("raise", "skip"):
            raise ConfigError(f"a dataset's faulty is 'raise' or 'skip', not {faulty!r}")
        source = _Source(path, split, subset, revision)
        tokenizer = TASK_UTILS.build(tokenizer)
        super().__init__(TokenStore(), tokenizer, source.name)
        row_tokenizer = RowTokenizer(tokenizer, template, columns or {}, max_length)
        settings = {"rows": [template, columns, max_length, _checked(part), held_out_every, faulty], **source.key}
        cache = TokenCache(token_cache, tokenizer, source.files, settings)
        if (kept := cache.find()) is not None:
            self.store, report = kept, RowReport.of(source.name, kept.notes)
        else:
            started = time.monotonic()
            report = self._make(row_tokenizer, _of_part(source.rows(), part, held_out_every), faulty)
            if len(self.store):
                cache.keep(self.store, report.notes(), time.monotonic() - started)
        report.check()
        if not len(self.store):
            raise DataError(f"{source.name} has no usable row for the part {part!r}")
        report.say(max_length)
        self.chosen = range(len(self.store))

    def _make(self, tokenizer: RowTokenizer, rows: Iterator[JsonRow], faulty: Literal["raise", "skip"]) -> RowReport:
        report = RowReport(self.path)
        while some := list(islice(rows, _AT_ONCE)):
            for row, made in zip(some, tokenizer.tokenize(some), strict=True):
                if isinstance(made, RowTokens):
                    self.store.append(made.tokens, made.responses, row.number, row.line)
                    report.count(made)
                    continue
                name = _name(self.unit, row.number, row.line, self.path)
                if faulty == "raise":
                    raise DataError(f"{name} {made}; faulty='skip' leaves such rows out")
                report.leave_out(name, made)
        return report


@DATASETS.register_module()
class TextBlocks(TokenRows):
    """A text file, cut into blocks of equal length without prompts. A shorter rest at the end is dropped.

    Args:
        path: the file, in UTF-8.
        tokenizer: see :class:`InstructionRows`.
        length: number of tokens of a block.
        part: ``"held_out"`` is the end of the file, ``"train"`` what comes before it.
        held_out: fraction of the blocks that is held out.
        split: see :class:`InstructionRows`.
        subset: see :func:`.load_table`.
        revision: see :func:`.load_table`.
        column: the column of the texts in a dataset of Hugging Face. A line feed is put between two rows.
        token_cache: see :class:`InstructionRows`.

    Raises:
        DataError: the file is missing or too short, or a row has something else than a text.
        MissingPackageError: the package datasets is needed and not installed.
        ConfigError: there is no such part.
    """

    def __init__(
        self,
        path: str,
        tokenizer: dict,
        length: int = 512,
        part: Part = "train",
        held_out: float = 0.05,
        split: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        column: str = "text",
        token_cache: str | None = None,
    ):
        source = _Source(path, split, subset, revision)
        tokenizer = TASK_UTILS.build(tokenizer)
        super().__init__(TokenStore(), tokenizer, source.name, unit="block")
        settings = {"blocks": [length, column], **source.key}
        cache = TokenCache(token_cache, tokenizer, source.files, settings)
        if (kept := cache.find()) is not None:
            self.store, count = kept, kept.notes["tokens"]
        else:
            started = time.monotonic()
            count = self._make(source.texts(column), length)
            cache.keep(self.store, {"tokens": count}, time.monotonic() - started)
        held = round(held_out * len(self.store))
        last = len(self.store) - held
        self.chosen = range(last) if _checked(part) == "train" else range(last, len(self.store))
        if not self.chosen:
            raise DataError(f"{source.name} has {count} tokens, too few for a block of {length} in the part {part!r}")

    def _make(self, pieces: Iterator[str], length: int) -> int:
        """Cut a text into blocks. Return the number of its tokens."""
        tokens: list[int] = []
        count = 0
        for piece in pieces:
            new = self.tokenizer.encode(piece, add_special_tokens=False)
            tokens, count = tokens + new, count + len(new)
            blocks = len(tokens) // length
            for start in range(0, blocks * length, length):
                self.store.append(tokens[start : start + length], [(0, length)], len(self.store))
            tokens = tokens[blocks * length :]
        return count


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
        path: the file, in UTF-8 with or without a byte order mark. It may be packed, see :func:`.open_data`.
        size: the number of characters that are read at a time.

    Raises:
        DataError: the file is missing or unreadable.
    """
    try:
        with io.TextIOWrapper(open_data(path), encoding="utf-8-sig") as text:
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
    except (OSError, UnicodeDecodeError, *DAMAGED) as error:
        raise DataError(f"cannot read the data file {path}: {error}") from error


class _Source:
    """Where texts are from: a file, or a dataset of Hugging Face if there is a split.

    The arguments are those of :func:`.load_table`.

    Attributes:
        name: for messages.
        files: all files with texts.
        key: what else decides about the texts.
    """

    def __init__(self, path: str, split: str | None, subset: str | None, revision: str | None) -> None:
        self.path = path
        self.table = None if split is None else load_table(path, split, subset, revision)
        self.name = path if split is None else f"{path}:{split}"
        self.files = [path] if self.table is None else files_of(self.table)
        self.key = {} if self.table is None else {"table": self.table._fingerprint}
        if self.table is None and (subset or revision):
            raise ConfigError("subset and revision are of a dataset of Hugging Face, which needs a split, too")
        if self.table is None and Path(path).is_dir():
            raise DataError(f"{path} is a folder: give the split of the dataset of Hugging Face in it, split='train'")

    def rows(self) -> Iterator[JsonRow]:
        """The rows, see :func:`.json_rows`."""
        return json_rows(self.path) if self.table is None else table_rows(self.table)

    def texts(self, column: str) -> Iterator[str]:
        """The text in pieces, see :func:`text_pieces`."""
        if self.table is None:
            yield from text_pieces(self.path)
            return
        if column not in self.table.features:
            raise ConfigError(f"{self.name} has no column {column!r}; it has {', '.join(self.table.features)}")
        piece, size = [], 0
        for row in table_rows(self.table.select_columns([column])):
            text = row.value[column]
            if not isinstance(text, str):
                raise DataError(f"row {row.number} of {self.name} has no text in {column!r}")
            piece.append(f"{text}\n")
            size += len(text)
            if size >= _PIECE:
                yield "".join(piece)
                piece, size = [], 0
        yield "".join(piece)


def _checked(part: Part) -> Part:
    if part not in ("train", "held_out"):
        raise ConfigError(f"a dataset's part is 'train' or 'held_out', not {part!r}")
    return part


def _name(unit: str, number: int, line: int, path: str) -> str:
    return f"{unit} {number} of {path}" + (f" (line {line})" if line else "")


def _of_part(rows: Iterator[JsonRow], part: Part, every: int) -> Iterator[JsonRow]:
    _checked(part)
    return (row for row in rows if not every or (row.number % every == every - 1) == (part == "held_out"))
