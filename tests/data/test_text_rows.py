"""Rows as people have them: names of columns and roles, values other than texts, and what is refused."""

import pytest

from ssm_train.data.datasets.text_rows import Conversation, Instruction, texts_of, understand
from ssm_train.data.faults import Unusable

U, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Say.", "input": "a", "output": "b"}, ("Say.", "a", "b")),
        ({"instruction": "Say.", "output": "b", "input": None, "id": 7}, ("Say.", "", "b")),
        ({"prompt": "Hi", "response": "b"}, ("Hi", "", "b")),
        ({"prompt": "Hi", "completion": "b"}, ("Hi", "", "b")),
        ({"question": "Hi", "answer": "b"}, ("Hi", "", "b")),
        ({"instruction": "Say.", "context": "c", "response": "b", "category": "x"}, ("Say.", "c", "b")),
        ({"input": "2 + 2", "output": 4}, ("2 + 2", "", "4")),
        ({"instruction": "", "input": "2 + 2", "output": "4"}, ("2 + 2", "", "4")),
        ({"instruction": "Say.", "output": 0}, ("Say.", "", "0")),
        ({"instruction": "Say.", "input": 0, "output": False}, ("Say.", "0", "false")),
        ({"instruction": "Say.", "output": True}, ("Say.", "", "true")),
        ({"instruction": "Say.", "output": 0.1}, ("Say.", "", "0.1")),
        ({"instruction": "Say.", "output": " b\u2028\n"}, ("Say.", "", " b\u2028\n")),
        ({"instruction": "\ud83d\ude00", "output": "b\ud83d"}, ("\U0001f600", "", "b\ufffd")),
        ({"instruction": "Say.", "output": "b", "history": [], "system": "", "tools": "[]"}, ("Say.", "", "b")),
    ],
)
def test_instructions(row, expected):
    assert understand(row) == Instruction(*expected)


def test_columns_by_name():
    row = {"Q": "Hi", "A": "b", "output": "other", "dialog": [U, A]}
    assert understand(row, {"instruction": "Q", "output": "A"}) == Instruction("Hi", "", "b")
    assert understand(row, {"messages": "dialog"}) == Conversation([U, A], [True])


@pytest.mark.parametrize(
    ("row", "messages", "learnt"),
    [
        ({"messages": [U, A, U, A]}, [U, A, U, A], [True, True]),
        ({"prompt": "Hi", "prompt_id": "x", "messages": [SYSTEM, U, A]}, [SYSTEM, U, A], [True]),
        ({"messages": [{"role": "developer", "content": "Be kind."}, U, A]}, [SYSTEM, U, A], [True]),
        ([U, A], [U, A], [True]),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, [U, A], [True]),
        ({"id": "1", "conversations": [{"from": "system", "value": "Be kind."}, U, A]}, [SYSTEM, U, A], [True]),
        ({"system": "Be kind.", "messages": [U, A]}, [SYSTEM, U, A], [True]),
        ({"messages": [{"role": "system", "content": " "}, U, A]}, [U, A], [True]),
        ({"messages": [dict(U, content=[{"type": "text", "text": "H"}, "i"]), A]}, [U, A], [True]),
        ({"messages": [U, dict(A, content=0)]}, [U, dict(A, content="0")], [True]),
        ({"messages": [U, dict(A, tool_calls=None)]}, [U, A], [True]),
        ({"messages": [U, dict(A, weight=0), U, dict(A, weight=1)]}, [U, A, U, A], [False, True]),
        ({"messages": [A, U, A]}, [A, U, A], [False, True]),
        ({"instruction": "Hi", "output": "Hello", "system": "Be kind."}, [SYSTEM, U, A], [True]),
        ({"system_prompt": "Be kind.", "question": "Hi", "response": "Hello"}, [SYSTEM, U, A], [True]),
        ({"instruction": "Hi", "output": "Hello", "history": [["Hi", "Hello"]]}, [U, A, U, A], [True, True]),
        ({"instruction": "H", "input": "i", "output": "Hello", "system": "Be kind."},
         [SYSTEM, dict(U, content="H\ni"), A], [True]),
    ],
)  # fmt: skip
def test_conversations(row, messages, learnt):
    assert understand(row) == Conversation(messages, learnt)


def test_texts_to_learn_a_tokenizer_from():
    assert texts_of({"instruction": "Say.", "output": 0}) == ["Say.", "0"]
    assert texts_of([SYSTEM, U, A]) == ["Be kind.", "Hi", "Hello"]
    assert texts_of({"a": 1}) == texts_of(Unusable("is not valid JSON")) == []


def test_what_follows_the_last_response_is_left_off():
    assert understand({"messages": [U, A, U, SYSTEM]}) == Conversation([U, A], [True], left_off=2)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (7, "is no object with columns"),
        ({"text": "a", "label": 1}, r"has no column that is read \(it has text, label\)"),
        ({}, r"has no column that is read \(it has none\)"),
        ({"instruction": " ", "output": "b"}, "has an empty prompt"),
        ({"instruction": "Say.", "output": " \n"}, "has no response"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, "has no response"),
        ({"instruction": "Say.", "output": ["b"]}, r"has something else than a text as output \(a list\)"),
        ({"prompt": [U], "completion": [A]}, r"has something else than a text as prompt \(a list\)"),
        ({"instruction": "Say.", "output": "b", "history": ["a"]}, "has a history that is no list of pairs"),
        ({"instruction": "Say.", "output": "b", "history": [["a", ""]]}, "has a history with an empty message"),
        ({"messages": "Hi"}, "has messages that are no list"),
        ({"messages": ["Hi"]}, "has a message that is no object"),
        ({"messages": []}, "has no response"),
        ({"messages": [U]}, "has no response"),
        ({"messages": [SYSTEM, A]}, "has no response"),
        ({"messages": [U, dict(A, weight=0)]}, "has no response"),
        ({"messages": [U, dict(A, content=None)]}, "has an empty response"),
        ({"messages": [dict(U, content=""), A]}, "has an empty prompt"),
        ({"messages": [U, {"role": "tool", "content": "7"}, A]}, "has a message of the role 'tool', which is not read"),
        ({"conversations": [U, {"from": "observation", "value": "7"}, A]}, "has a message of the role 'observation'"),
        ({"messages": [U, dict(A, tool_calls=[{"id": "x"}])]}, "has a message that calls a tool, which is not read"),
        ({"messages": [U, A], "tools": [{"name": "f"}]}, "has tools, which are not read"),
        ({"messages": [dict(U, role="narrator"), A]}, r"other than system, user and assistant \('narrator'\)"),
        ({"messages": [{"content": "Hi"}, A]}, r"other than system, user and assistant \(None\)"),
        ({"messages": [dict(U, content=[{"type": "image_url"}]), A]}, "has a message with other content than text"),
        ({"messages": [dict(U, content={"a": 1}), A]}, r"has something else than a text as content \(a dict\)"),
    ],
)
def test_refused(row, words):
    with pytest.raises(Unusable, match=words):
        understand(row)
