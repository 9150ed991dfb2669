"""A tokenizer learned from text files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.datasets.text import text_pieces
from ssm_train.data.datasets.text_rows import texts_of
from ssm_train.data.json_rows import json_rows
from ssm_train.runtime.files import assembling, check_folder

_ROWS = (".json", ".jsonl")


class LearnedTokenizer(NamedTuple):
    """What came of learning a tokenizer.

    Attributes:
        tokens: size of its vocabulary.
        bytes_per_token: of the text that it was learned from, on average.
    """

    tokens: int
    bytes_per_token: float


def learn_tokenizer(files: Sequence[str | Path], folder: str | Path, vocab_size: int = 4096) -> LearnedTokenizer:
    """Learn a byte-level BPE tokenizer and write the folder that ``AutoTokenizer.from_pretrained`` reads.

    Args:
        files: UTF-8 text to learn from. Of files that end in ``.json`` or ``.jsonl``, the texts of the rows are taken.
        folder: where the tokenizer goes.
        vocab_size: tokens at most; 258 for bytes alone.

    Raises:
        ConfigError: the vocabulary is too small for the bytes.
        DataError: a file cannot be read, is not UTF-8, or has a name of JSON and is none; or there is no text.
        WriteError: the folder cannot be written.
    """
    check_folder(folder)
    # Imported here because it imports transformers, which only this task needs.
    from tree_ssm.language.tokenizer import train_tokenizer

    if not any(_texts(files)):
        raise DataError(f"there is nothing to learn from: {', '.join(map(str, files))} has no text")
    try:
        tokenizer = train_tokenizer((line for text in _texts(files) for line in text.splitlines(True)), vocab_size)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    with assembling(folder) as place:
        tokenizer.save_pretrained(place)
    size = tokens = 0
    for text in _texts(files):
        size += len(text.encode())
        tokens += len(tokenizer.encode(text))
    return LearnedTokenizer(len(tokenizer), size / max(tokens, 1))


def _texts(files: Sequence[str | Path]) -> Iterator[str]:
    """The texts of files, one after the other, so that a file may be larger than the memory."""
    for file in files:
        if Path(file).suffix.lower() in _ROWS:
            yield from (text for row in json_rows(file) for text in texts_of(row.value))
        else:
            yield from text_pieces(file)
