"""Learns a byte-level BPE tokenizer from text files: tree-ssm train-tokenizer FOLDER FILE [FILE …]."""

import argparse

from ssm_train.apis import arguments as kinds


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm train-tokenizer", description="Learn a byte-level BPE tokenizer.", allow_abbrev=False
    )
    parser.add_argument("folder", help="where the tokenizer goes")
    parser.add_argument("files", nargs="+", help="UTF-8 text to learn from; of JSON, the rows' texts")
    parser.add_argument(
        "--vocab-size", type=kinds.whole_number(), default=4096, help="tokens at most; 258 for bytes alone"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Learn and write."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast.
    from ssm_train.apis.tokenizer import learn_tokenizer

    learned = learn_tokenizer(args.files, args.folder, args.vocab_size)
    print(f"{learned.tokens} tokens, {learned.bytes_per_token:.2f} bytes a token, in {args.folder}")
