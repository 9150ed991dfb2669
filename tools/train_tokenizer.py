"""Learns a byte-level BPE tokenizer from text files: python tools/train_tokenizer.py FOLDER FILE [FILE …]."""

import argparse
import sys
from pathlib import Path

from ssm_core.errors import ConfigError, DataError
from ssm_train.apis import cli


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Learn a byte-level BPE tokenizer.", allow_abbrev=False)
    parser.add_argument("folder", help="where the tokenizer goes")
    parser.add_argument("files", nargs="+", help="UTF-8 text to learn from")
    parser.add_argument("--vocab-size", type=int, default=4096, help="tokens at most; 258 for bytes alone")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Learn and write."""
    args = parse_arguments(arguments)
    from tree_ssm.language.tokenizer import train_tokenizer  # later than the command line, so that --help is quick

    texts = [_read(path) for path in args.files]
    try:
        tokenizer = train_tokenizer(
            (line for text in texts for line in text.splitlines(keepends=True)), args.vocab_size
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    tokenizer.save_pretrained(args.folder)
    size, tokens = sum(len(text.encode()) for text in texts), sum(len(tokenizer.encode(text)) for text in texts)
    print(f"{len(tokenizer)} tokens, {size / max(tokens, 1):.2f} bytes a token, in {args.folder}")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


if __name__ == "__main__":
    sys.exit(cli.run(main))
