"""From rows of JSON to tokens: many rows at a time, because tokenizers then use all processors."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ssm_core.errors import ConfigError
from ssm_train.data.datasets.chat import ChatTemplate, Span
from ssm_train.data.datasets.text_rows import Conversation, check_columns, conversation_of, understand
from ssm_train.data.faults import Unusable
from ssm_train.data.json_rows import JsonRow


class RowTokens(NamedTuple):
    """The tokens of a row.

    Attributes:
        tokens: of the row, as many as are kept.
        responses: first token and end of every response that is learnt.
        is_cut: whether tokens were cut off.
        is_shortened: whether messages after the last response were left off.
        is_closed: whether the last response ended in the token that ends a generation.
    """

    tokens: list[int]
    responses: list[Span]
    is_cut: bool
    is_shortened: bool
    is_closed: bool


class _Draft(NamedTuple):
    """The texts of a row.

    Attributes:
        texts: the prompt and the response of an instruction, which are tokenized apart so that no token spans the end
            of the prompt; or the text of a conversation.
        spans: the places of the responses in the text of a conversation; None for an instruction.
        is_shortened: see :class:`RowTokens`.
    """

    texts: tuple[str, ...]
    spans: list[Span] | None = None
    is_shortened: bool = False


class RowTokenizer:
    """Makes the tokens of rows.

    Args:
        tokenizer: a tokenizer of transformers.
        template: the texts of prompts, or None; see :class:`.InstructionRows`.
        columns: see :func:`.understand`.
        max_length: largest number of tokens of a row.

    Raises:
        ConfigError: the template or the columns are wrong.
    """

    def __init__(
        self, tokenizer: Any, template: Mapping[str, str] | None, columns: Mapping[str, str], max_length: int
    ) -> None:
        if template is not None:
            _check_template(template)
        check_columns(columns)
        self.tokenizer, self.template, self.columns, self.max_length = tokenizer, template, columns, max_length
        self._chat: ChatTemplate | None = None  # files of instructions need none

    def tokenize(self, rows: Sequence[JsonRow]) -> list[RowTokens | Unusable]:
        """The tokens of some rows, or what is wrong with a row.

        Raises:
            ConfigError: there are conversations, and the tokenizer has no good chat template.
        """
        drafts = [self._draft(row.value) for row in rows]
        good = [draft for draft in drafts if isinstance(draft, _Draft)]
        # The library warns in every worker that is forked after its threads were used, unless this is set. The workers
        # of a data loader make no tokens.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        singles = iter(self._ids([text for draft in good if draft.spans is None for text in draft.texts]))
        chats = iter(self._places([draft for draft in good if draft.spans is not None]))
        made: list[RowTokens | Unusable] = []
        for draft in drafts:
            if isinstance(draft, Unusable):
                made.append(draft)
            elif draft.spans is not None:
                made.append(self._cut(*next(chats), draft.is_shortened))
            else:
                prompt, response = next(singles), [*next(singles), self.tokenizer.eos_token_id]
                tokens = prompt + response
                made.append(self._cut(tokens, [(len(prompt), len(tokens))], draft.is_shortened))
        return made

    def _draft(self, value: Any) -> _Draft | Unusable:
        if isinstance(value, Unusable):
            return value
        try:
            row = understand(value, self.columns)
            if not isinstance(row, Conversation) and self.template is not None:
                text = self.template["with_input" if row.input.strip() else "without_input"]
                return _Draft((text.format(instruction=row.instruction, input=row.input), row.output))
            conversation = row if isinstance(row, Conversation) else conversation_of(row)
            self._chat = self._chat or ChatTemplate(self.tokenizer)
            text, spans = self._chat.render(conversation)
            return _Draft((text,), spans, conversation.left_off > 0)
        except Unusable as fault:
            return fault

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def _places(self, drafts: list[_Draft]) -> list[tuple[list[int], list[Span]]]:
        if not drafts or self._chat is None:
            return []
        return self._chat.tokenize([(draft.texts[0], draft.spans or []) for draft in drafts])

    def _cut(self, tokens: list[int], responses: list[Span], is_shortened: bool) -> RowTokens | Unusable:
        if not responses:
            return Unusable("has no response")
        length, context_len = self.max_length, responses[0][0]
        if context_len >= length:
            return Unusable(
                f"has a prompt that leaves no room for a response in max_length={length}", f"{context_len} tokens"
            )
        is_closed = tokens[responses[-1][1] - 1] == self.tokenizer.eos_token_id
        kept = [(first, min(end, length)) for first, end in responses if first < length]
        return RowTokens(tokens[:length], kept, len(tokens) > length, is_shortened, is_closed)


def _check_template(template: Mapping[str, str]) -> None:
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
