"""Tokens of conversations by the chat template of their tokenizer, and which of them are learnt: the responses.

A template says itself what is a response, between ``{% generation %}`` and ``{% endgeneration %}``. Where it does not,
a response is what the template adds to the text when the response is added to the conversation. That holds only if the
text of a shorter conversation is the beginning of the text of a longer one, which is checked for every row.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

from ssm_core.errors import ConfigError
from ssm_train.data.datasets.text_rows import Conversation
from ssm_train.data.faults import Unusable

Span = tuple[int, int]

_MARKED = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
# Some templates write today's date. A run that is resumed on another day would read other rows, so the date is fixed.
# Jinja removes the line feed after a block, and with it the template begins on a line of its own, as it does alone.
_NO_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}\n"


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers.

    Raises:
        ConfigError: the tokenizer has no chat template, or one that cannot be parsed, or is no fast tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(
                "the rows are conversations, and the tokenizer has no chat template: set tokenizer.chat_template to "
                "one, or to its file, such as chat_template.jinja in the tokenizer's folder"
            )
        if not tokenizer.is_fast:
            raise ConfigError("conversations need a fast tokenizer, which says where in the text its tokens are")
        try:
            self.template: str = tokenizer.get_chat_template()
        except ValueError as error:  # several templates and no default
            raise ConfigError(f"the tokenizer's chat template cannot be chosen: {error}") from error
        if "strftime_now" in self.template:
            self.template = _NO_DATE + self.template
        self.is_marked = _MARKED.search(self.template) is not None
        self.tokenizer = tokenizer
        self.whole_tokens = tuple(tokenizer.get_added_vocab())

    def render(self, conversation: Conversation) -> tuple[str, list[Span]]:
        """The text of a conversation, and the places in it of the responses that are learnt, in characters.

        Raises:
            ConfigError: the template cannot be parsed.
            Unusable: the template refuses the conversation, or the responses cannot be found in its text.
        """
        return (self._marked if self.is_marked else self._by_prefixes)(conversation)

    def tokenize(self, rendered: Sequence[tuple[str, list[Span]]]) -> list[tuple[list[int], list[Span]]]:
        """The tokens of texts, as transformers makes them, and the places of the responses in tokens.

        Args:
            rendered: what :meth:`render` returned.
        """
        texts = [text for text, _ in rendered]
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        made = []
        for (_, spans), tokens, places in zip(rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            starts, ends = ([place[side] for place in places] for side in (0, 1))
            # A response has all tokens that share a character with it.
            found = [(bisect_right(ends, start), bisect_left(starts, end)) for start, end in spans]
            made.append((tokens, [(first, last) for first, last in found if first < last]))
        return made

    def _marked(self, conversation: Conversation) -> tuple[str, list[Span]]:
        text, spans = self._render(conversation.messages)
        if all(conversation.learnt):
            return text, spans
        if len(spans) != len(conversation.learnt):
            raise Unusable("has responses that are not learnt, and the chat template does not mark each response once")
        return text, [span for span, learnt in zip(spans, conversation.learnt, strict=True) if learnt]

    def _by_prefixes(self, conversation: Conversation) -> tuple[str, list[Span]]:
        messages = conversation.messages
        text, _ = self._render(messages)
        places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        spans = []
        for place, learnt in zip(places, conversation.learnt, strict=True):
            if not learnt:
                continue
            before, _ = self._render(messages[:place], prompts=True)
            after = text if place == len(messages) - 1 else self._render(messages[: place + 1])[0]
            if not (text.startswith(before) and text.startswith(after) and len(before) <= len(after)):
                raise Unusable(
                    "is changed in its beginning by the chat template when a message is added, which hides where the "
                    "responses are: mark them with {% generation %} in tokenizer.chat_template"
                )
            spans.append((len(before), self._end(after)))
        return text, spans

    def _end(self, text: str) -> int:
        """The end of a text without blanks behind a token such as ``<|im_end|>``, where a generation ends."""
        shorter = text.rstrip()
        return len(shorter) if shorter.endswith(self.whole_tokens) else len(text)

    def _render(self, messages: list[dict[str, str]], prompts: bool = False) -> tuple[str, list[Span]]:
        """The text of a conversation, and the parts of it that the template marks as generated.

        Args:
            messages: the conversation.
            prompts: whether the beginning of a response follows, as in generation.
        """
        # Imported here because only conversations need them.
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            [text], *marks = render_jinja_template(
                conversations=[messages],
                chat_template=self.template,
                return_assistant_tokens_mask=self.is_marked,
                add_generation_prompt=prompts,
                **self.tokenizer.special_tokens_map,
            )
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"the tokenizer's chat template is no Jinja: {error.message} (line {error.lineno})"
            ) from error
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            words = " ".join(str(error).split())[:200]
            raise Unusable("is refused by the chat template", words or type(error).__name__) from error
        return text, [tuple(span) for span in marks[0][0]] if self.is_marked else []
