"""Reads tokenizers from folders that anybody can have written.

The classes of transformers that load tokenizers ask whether they may run the folder's code, follow names in it, and
take patterns and sizes from it that need any time and memory. Here a tokenizer is what its ``tokenizer.json`` says, if
its parts are among those below, and its special tokens.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ssm_core.errors import CheckpointError
from ssm_core.folders import read_json

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_TOKENIZER, *_SETTINGS = FILES
_MODELS = {"BPE", "WordLevel", "WordPiece", "Unigram"}
# Parts that need time and memory in proportion to the text.
_PARTS = {
    "Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Nmt", "BertNormalizer", "Prepend",
    "Replace", "ByteLevel", "BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits", "Metaspace",
    "CharDelimiterSplit", "UnicodeScripts", "Split", "TemplateProcessing", "BertProcessing", "RobertaProcessing",
    "ByteFallback", "Fuse", "WordPiece", "BPEDecoder", "CTC",
}  # fmt: skip
_PLACES = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
# The patterns of widely used tokenizers. Another pattern may take any time for a text.
_PATTERNS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    *(
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+"
        for number in (r"\p{N}{1,3}", r"\p{N}")
    ),
    r"[0-9][0-9][0-9]", r"\p{N}{1,3}", r"\d{1,3}", r"\s+", " ",
}  # fmt: skip
_MOST_PARTS = 32
_MOST_PIECES = 16  # of a template, and tokens of a piece
_GROWTH = 16  # a text may become so many times as long
_LONGEST_WORD = 1000  # characters; the time for one grows with its square
# Settings that this project uses, with their types.
_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_OTHERS = {"padding_side": str, "truncation_side": str, "clean_up_tokenization_spaces": bool}


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read a tokenizer.

    Args:
        folder: has ``tokenizer.json``, and usually ``tokenizer_config.json``.

    Raises:
        CheckpointError: there is none, it is damaged, or it has parts that need any time or memory.
    """
    path = folder / _TOKENIZER
    content = read_json(path)
    content |= {"truncation": None, "padding": None}
    try:
        _check(content, path)
        tokenizer = Tokenizer.from_str(json.dumps(content))
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises no other type
        raise CheckpointError(f"cannot read the tokenizer {path}: {' '.join(str(error).split())}") from error
    settings: dict[str, Any] = {}
    for name in reversed(_SETTINGS):
        if (folder / name).is_file():
            settings |= _settings(read_json(folder / name))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, name_or_path=str(folder), **settings)


def _settings(content: dict[str, Any]) -> dict[str, Any]:
    """The special tokens and the other settings that are used. Everything else, such as templates of chats, is not."""
    found: dict[str, Any] = {}
    for name in _TOKENS:
        value = content.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str) and value:
            found[name] = value
    for name, kind in _OTHERS.items():
        if isinstance(content.get(name), kind):
            found[name] = content[name]
    length = content.get("model_max_length")
    if isinstance(length, int | float) and 0 < length < float("inf"):
        found["model_max_length"] = int(length)
    return found


def _check(content: dict[str, Any], path: Path) -> None:
    """Raise a :class:`CheckpointError` unless a tokenizer has known parts and numbers its tokens without large gaps."""
    model = content["model"]
    if model.get("type", "BPE") not in _MODELS:
        raise CheckpointError(f"{path} has a model of the type {model.get('type')!r}, not {', '.join(sorted(_MODELS))}")
    if not model.get("max_input_chars_per_word", 0) <= _LONGEST_WORD:
        raise CheckpointError(f"{path} allows words of more than {_LONGEST_WORD} characters")
    added = content.get("added_tokens") or []
    vocabulary = model["vocab"]
    numbers = [*(vocabulary.values() if isinstance(vocabulary, dict) else ()), *(token["id"] for token in added)]
    most = 2 * (len(vocabulary) + len(added)) + 1000
    if not all(type(number) is int and 0 <= number < most for number in numbers):
        raise CheckpointError(f"{path} numbers its tokens beyond {most}, and has {len(vocabulary) + len(added)}")
    parts = [part for place in _PLACES for part in _parts(content.get(place))]
    if len(parts) > _MOST_PARTS:
        raise CheckpointError(f"{path} has more than {_MOST_PARTS} parts")
    growth = 1
    for part in parts:
        growth *= _checked_growth(part, path)
    if growth > _GROWTH:
        raise CheckpointError(f"{path} makes a text more than {_GROWTH} times as long")


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """A part and those within it."""
    if part is None:
        return
    yield part
    for key in ("normalizers", "pretokenizers", "processors", "decoders"):
        for inner in part.get(key) or ():
            yield from _parts(inner)


def _checked_growth(part: dict[str, Any], path: Path) -> int:
    """How many times as long a part makes a text, if the part is known."""
    kind = part["type"]
    if kind not in _PARTS:
        raise CheckpointError(f"{path} has a part of the type {kind!r}, which is not known to end in a short time")
    pattern = part.get("pattern")
    if isinstance(pattern, dict) and "Regex" in pattern and pattern["Regex"] not in _PATTERNS:
        raise CheckpointError(
            f"{path} splits text by the pattern {pattern['Regex'][:80]!r}, which is not known to end in a short time"
        )
    if kind == "TemplateProcessing":
        tokens = [len(token["ids"]) for token in part["special_tokens"].values()]
        if max(len(part["single"]), len(part["pair"]), *tokens, 0) > _MOST_PIECES:
            raise CheckpointError(f"{path} has a template of more than {_MOST_PIECES} pieces")
    if kind == "Prepend":
        return 1 if len(part["prepend"]) <= _MOST_PIECES else _GROWTH + 1
    if kind == "Replace":
        found = pattern.get("String", " ") if isinstance(pattern, dict) else ""
        return -(-len(part["content"]) // len(found)) or 1 if found else _GROWTH + 1
    return 1
