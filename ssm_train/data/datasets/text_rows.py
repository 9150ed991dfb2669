"""What a row of a text file means: an instruction with its response, or a conversation.

People's files differ in the names of columns and roles. The usual ones are understood, and what is not is said.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ssm_core.errors import ConfigError
from ssm_train.data.faults import Unusable

# Columns by their meaning. The first that is not empty counts.
INSTRUCTION = ("instruction", "prompt", "question", "query")
INPUT = ("input", "context")
OUTPUT = ("output", "response", "completion", "answer")
MESSAGES = ("messages", "conversations", "conversation")
SYSTEM = ("system", "system_prompt")
HISTORY = ("history",)
COLUMNS = {
    "instruction": INSTRUCTION, "input": INPUT, "output": OUTPUT, "messages": MESSAGES, "system": SYSTEM,
    "history": HISTORY,
}  # fmt: skip
_NOT_READ = ("tools", "functions", "images", "videos", "audios")
_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
}  # fmt: skip
_TOOLS = {"tool", "function", "function_call", "tool_call", "tool_calls", "tool_response", "observation"}
_CALLS = ("tool_calls", "function_call")


class Instruction(NamedTuple):
    """An instruction, what it is about, which may be empty, and the response."""

    instruction: str
    input: str
    output: str


class Conversation(NamedTuple):
    """Messages as transformers' chat templates take them.

    Attributes:
        messages: dictionaries of ``role`` and ``content``; the last one is a response. The roles are system, user and
            assistant.
        learnt: for each response, whether it is trained on.
        left_off: number of messages after the last response, which are not among the messages.
    """

    messages: list[dict[str, str]]
    learnt: list[bool]
    left_off: int = 0


def check_columns(columns: Mapping[str, str]) -> None:
    """Check the names of columns in a config.

    Raises:
        ConfigError: a key is no meaning of a column.
    """
    for key in columns:
        if key not in COLUMNS:
            raise ConfigError(f"a dataset's columns are {', '.join(COLUMNS)}, and {key!r} is none of them")


def understand(row: Any, columns: Mapping[str, str] | None = None) -> Instruction | Conversation:
    """Understand a row.

    Args:
        row: the content of a row of JSON. A list is a conversation.
        columns: the columns of the file by their meaning, where they have other names than the usual ones.

    Raises:
        Unusable: the row has nothing to learn from, or is not understood.
    """
    if isinstance(row, list):
        row = {"messages": row}
    if not isinstance(row, dict):
        raise Unusable("is no object with columns")
    names = COLUMNS | {meaning: (name,) for meaning, name in (columns or {}).items()}
    for name in _NOT_READ:
        if row.get(name) not in (None, "", "[]", "{}", [], {}):
            raise Unusable(f"has {name}, which are not read")
    if any(row.get(name) is not None for name in names["messages"]):
        messages = next(row[name] for name in names["messages"] if row.get(name) is not None)
        return _conversation(messages, _column(row, names["system"]))
    if not any(name in row for meaning in ("instruction", "input", "output") for name in names[meaning]):
        raise Unusable("has no column that is read", f"it has {', '.join(row)[:200] or 'none'}")
    instruction, given, output = (_column(row, names[meaning]) for meaning in ("instruction", "input", "output"))
    if not instruction.strip():
        instruction, given = given, ""
    if not instruction.strip():
        raise Unusable("has an empty prompt")
    if not output.strip():
        raise Unusable("has no response")
    system, turns = _column(row, names["system"]), _history(row, names["history"])
    single = Instruction(instruction, given, output)
    return conversation_of(single, system, turns) if system.strip() or turns else single


def texts_of(value: Any) -> list[str]:
    """The texts of a row of JSON; none if it cannot be used."""
    try:
        row = understand(value)
    except Unusable:
        return []
    if isinstance(row, Conversation):
        return [message["content"] for message in row.messages]
    return [text for text in row if text]


def conversation_of(row: Instruction, system: str = "", turns: Sequence[tuple[str, str]] = ()) -> Conversation:
    """An instruction as a conversation.

    Args:
        row: the instruction. Its input is on a new line of the same message.
        system: the system prompt; empty for none.
        turns: what was said before, as pairs of a user's message and the response.
    """
    last = (f"{row.instruction}\n{row.input}" if row.input.strip() else row.instruction, row.output)
    messages = [{"role": "system", "content": system}] if system.strip() else []
    for asked, answered in (*turns, last):
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return Conversation(messages, [True] * (len(turns) + 1))


def _conversation(given: Any, system: str) -> Conversation:
    if not isinstance(given, list):
        raise Unusable("has messages that are no list")
    messages: list[dict[str, str]] = []
    learnt = []
    for message in given:
        role, content = _message(message)
        if role == "system" and not content.strip():
            continue
        if not content.strip():
            raise Unusable("has an empty response" if role == "assistant" else "has an empty prompt")
        if role == "assistant":
            # A response at the beginning has no prompt. It is read and not learnt.
            asked = any(earlier["role"] == "user" for earlier in messages)
            learnt.append(asked and message.get("weight") != 0)
        messages.append({"role": role, "content": content})
    if system.strip() and not any(message["role"] == "system" for message in messages):
        messages.insert(0, {"role": "system", "content": system})
    whole = len(messages)
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not any(learnt):
        raise Unusable("has no response")
    return Conversation(messages, learnt, whole - len(messages))


def _message(message: Any) -> tuple[str, str]:
    """The role and the content of a message."""
    if not isinstance(message, dict):
        raise Unusable("has a message that is no object")
    if any(message.get(key) for key in _CALLS):
        raise Unusable("has a message that calls a tool, which is not read")
    name = message.get("role", message.get("from"))
    role = str(name).strip().lower()
    if role in _TOOLS:
        raise Unusable(f"has a message of the role {role!r}, which is not read")
    if role not in _ROLES:
        raise Unusable("has a message of a role other than system, user and assistant", repr(name)[:80])
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        return _ROLES[role], "".join(map(_part, content))
    return _ROLES[role], _text(content, "content")


def _part(part: Any) -> str:
    """The text of a part of a message's content."""
    if isinstance(part, str):
        return _text(part, "content")
    if isinstance(part, dict) and part.get("type") == "text":
        return _text(part.get("text"), "content")
    raise Unusable("has a message with other content than text")


def _column(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """The text of the first column that is not empty."""
    return next((text for name in names if (text := _text(row.get(name), name)).strip()), "")


def _history(row: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, str]]:
    pairs = next((row[name] for name in names if row.get(name)), [])
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise Unusable("has a history that is no list of pairs")
    turns = [(_text(asked, "history"), _text(answered, "history")) for asked, answered in pairs]
    if not all(asked.strip() and answered.strip() for asked, answered in turns):
        raise Unusable("has a history with an empty message")
    return turns


def _text(value: Any, name: str) -> str:
    """A value as text. Numbers and truth values are written as in JSON, and null is an empty text."""
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if not isinstance(value, str):
        raise Unusable(f"has something else than a text as {name}", f"a {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        # Half a surrogate pair, where a text was cut within a character. Tokenizers do not take it.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value
