"""A tokenizer learned from text files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ssm_core.errors import ConfigError, DataError
from ssm_train.runtime.files import assembling, check_folder


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
        files: UTF-8 text to learn from.
        folder: where the tokenizer goes.
        vocab_size: tokens at most; 258 for bytes alone.

    Raises:
        ConfigError: the vocabulary is too small for the bytes.
        DataError: a file cannot be read, or is not UTF-8.
        WriteError: the folder cannot be written.
    """
    check_folder(folder)
    # Imported here because it imports transformers, which only this task needs.
    from tree_ssm.language.tokenizer import train_tokenizer

    texts = [_read(Path(file)) for file in files]
    try:
        tokenizer = train_tokenizer((line for text in texts for line in text.splitlines(keepends=True)), vocab_size)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    with assembling(folder) as place:
        tokenizer.save_pretrained(place)
    size, tokens = sum(len(text.encode()) for text in texts), sum(len(tokenizer.encode(text)) for text in texts)
    return LearnedTokenizer(len(tokenizer), size / max(tokens, 1))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
