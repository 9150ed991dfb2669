"""Conversations: their tokens are transformers' own, and the responses alone are learnt."""

import datetime
import re
from typing import NamedTuple

import pytest
from tokenizers import processors
from transformers.utils import chat_template_utils

from ssm_core.errors import ConfigError
from ssm_train.data.datasets.chat import ChatTemplate
from ssm_train.data.datasets.text_rows import Conversation
from ssm_train.data.faults import Unusable
from tree_ssm.language import load_tokenizer

MARKED = (
    "{% for message in messages %}{{ '<' + message.role + '>\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message.content + eos_token + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>\n' }}{% endif %}"
)
PLAIN = re.sub(r"\{% (end)?generation %\}", "", MARKED)
STRIPPED = PLAIN.replace("message.content", "(message.content | trim)")
# As Llama 2 has it: the system prompt moves into the first message of the user, and roles have to alternate.
MOVED = """
{%- if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% set first = messages[0].content + '\n\n' %}
{%- else %}{% set rest = messages %}{% set first = '' %}{% endif %}
{%- for message in rest %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
    {%- if message.role == 'user' %}{{ '[INST] ' + (first if loop.first else '') + message.content + ' [/INST]' }}
    {%- else %}{{ ' ' + message.content + eos_token }}{% endif %}
{%- endfor %}"""
# As Qwen 3 has it: what was thought is removed from all responses but the last.
FORGETFUL = PLAIN.replace("message.content", "(message.content if loop.last else message.content.split('|')[-1])", 1)
MESSAGES = [
    {"role": "system", "content": "Say  what is \u2028 asked.\n"},
    {"role": "user", "content": "one and two"},
    {"role": "assistant", "content": "They are three äß\U0001f600"},
    {"role": "user", "content": " assistant\nfive? "},
    {"role": "assistant", "content": "They are three  \n"},
]


@pytest.fixture(params=[False, True], ids=["", "trimmed offsets"])
def tokenizer(lm_folder, request):
    """Tokenizers such as GPT-NeoX's leave blanks out of the places that they give for tokens."""
    tokenizer = load_tokenizer(str(lm_folder / "pretrained"))
    if request.param:
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


class Made(NamedTuple):
    tokens: list
    responses: list


def chat(tokenizer, template, messages, learnt=None):
    """The tokens and the responses of a conversation between two others."""
    tokenizer.chat_template = template
    template = ChatTemplate(tokenizer)
    other = ("<user>\n", [])
    learnt = learnt or [True] * sum(message["role"] == "assistant" for message in messages)
    return Made(*template.tokenize([other, template.render(Conversation(messages, learnt)), other])[1])


def learnt_text(tokenizer, made):
    return [tokenizer.decode(made.tokens[first:end]) for first, end in made.responses]


@pytest.mark.parametrize("template", [MARKED, PLAIN, STRIPPED, MOVED], ids=["marked", "plain", "stripped", "moved"])
def test_tokens_are_those_of_transformers(tokenizer, template):
    made = chat(tokenizer, template, MESSAGES)
    assert made.tokens == tokenizer.apply_chat_template(MESSAGES)["input_ids"]
    for (first, _), shorter in zip(made.responses, (MESSAGES[:2], MESSAGES[:4]), strict=True):
        prompt = tokenizer.apply_chat_template(shorter, add_generation_prompt=True)["input_ids"]
        assert made.tokens[:first] == prompt


@pytest.mark.parametrize("template", [MARKED, PLAIN], ids=["marked", "plain"])
def test_learnt_tokens_are_those_of_transformers(tokenizer, template):
    made = chat(tokenizer, template, MESSAGES)
    theirs = tokenizer.apply_chat_template(MESSAGES, chat_template=MARKED, return_assistant_tokens_mask=True)
    ours = [any(first <= place < end for first, end in made.responses) for place in range(len(made.tokens))]
    assert ours == list(map(bool, theirs["assistant_masks"]))
    assert learnt_text(tokenizer, made) == [message["content"] + tokenizer.eos_token for message in MESSAGES[2::2]]


@pytest.mark.parametrize("template", [MARKED, PLAIN], ids=["marked", "plain"])
def test_a_response_may_be_left_out_of_the_loss(tokenizer, template):
    whole = chat(tokenizer, template, MESSAGES)
    for learnt, kept in (([True, False], slice(1)), ([False, True], slice(1, 2))):
        made = chat(tokenizer, template, MESSAGES, learnt)
        assert (made.tokens, made.responses) == (whole.tokens, whole.responses[kept])


def test_templates_that_change_what_was_before_are_refused(tokenizer):
    messages = [dict(message, content=f"Hm.|{message['content']}") for message in MESSAGES]
    with pytest.raises(Unusable, match=r"changed in its beginning .* mark them with \{% generation %\}"):
        chat(tokenizer, FORGETFUL, messages)
    made = chat(tokenizer, FORGETFUL, messages, [False, True])
    assert learnt_text(tokenizer, made) == [messages[-1]["content"] + tokenizer.eos_token]
    thinking = PLAIN.replace("{{ '<assistant>\n' }}", "{{ '<assistant>\n<think>' }}")
    with pytest.raises(Unusable, match="changed in its beginning"):
        chat(tokenizer, thinking, MESSAGES)


def test_templates_that_refuse(tokenizer):
    with pytest.raises(Unusable, match=r"is refused by the chat template \(Roles must alternate\)"):
        chat(tokenizer, MOVED, MESSAGES[2:])
    with pytest.raises(Unusable, match=r"is refused by the chat template .* has no attribute 'nothing'"):
        chat(tokenizer, "{{ messages[0].nothing + '' }}", MESSAGES)
    once = "{% generation %}{% for m in messages %}{{ m.content }}{% endfor %}{% endgeneration %}"
    with pytest.raises(Unusable, match="not learnt, and the chat template does not mark each response once"):
        chat(tokenizer, once, MESSAGES, [False, True])
    with pytest.raises(ConfigError, match=r"chat template is no Jinja: .* \(line 2\)"):
        chat(tokenizer, "\n{% for %}", MESSAGES)
    with pytest.raises(ConfigError, match=r"the tokenizer has no chat template: set tokenizer.chat_template"):
        chat(tokenizer, None, MESSAGES)
    with pytest.raises(ConfigError, match="cannot be chosen: This model has multiple chat templates with no default"):
        chat(tokenizer, {"a": PLAIN, "b": PLAIN}, MESSAGES)


def test_blanks_after_a_special_token_are_not_learnt(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    made = chat(tokenizer, PLAIN.replace("eos_token", "'<|end|>'"), MESSAGES)
    assert learnt_text(tokenizer, made) == [message["content"] + "<|end|>" for message in MESSAGES[2::2]]


def test_rows_do_not_depend_on_the_day(tokenizer, monkeypatch):
    dated = "\n  {% if true %}\n{{ strftime_now('%d %b %Y') }}\n{% endif %}\n" + PLAIN
    made = chat(tokenizer, dated, MESSAGES)

    class Then(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2024, 7, 26)

    monkeypatch.setattr(chat_template_utils, "datetime", Then)
    assert made.tokens == tokenizer.apply_chat_template(MESSAGES)["input_ids"]
