"""Trains a byte-level BPE tokenizer on local text, for models that are trained from scratch."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END, PAD = "<|endoftext|>", "<|padding|>"
SMALLEST = 256 + 2


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer that merges bytes. It can encode any text, and decoding returns the same text.

    Args:
        texts: the texts to learn from.
        vocab_size: the largest number of tokens: 256 bytes, two special tokens, and merges. 258 gives no merges.

    Raises:
        ValueError: the vocabulary is too small for the bytes and the special tokens.
    """
    if vocab_size < SMALLEST:
        raise ValueError(f"vocab_size must be at least {SMALLEST}, for the bytes and two special tokens: {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
