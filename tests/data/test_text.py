"""Tests of rows and blocks of tokens. Every faulty row gets one clear line."""

import functools
import itertools
import json
import logging
import pickle
import re

import pytest
import torch
from command_line import ROOT
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

from ssm_core.errors import ConfigError, DataError
from ssm_core.writing import WriteError
from ssm_train.data.datasets.text import InstructionRows, TextBlocks, pad_rows, text_pieces
from ssm_train.data.token_store import TokenStore
from ssm_train.registry import TASK_UTILS
from ssm_train.runtime.config import load_config

TEMPLATE = dict(with_input="Q {instruction} / {input}\nA ", without_input="Q {instruction}\nA ")


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("ssm_train"):
        yield


def test_a_row_is_prompt_and_response(lm_folder, tokenizer):
    rows = json.loads((lm_folder / "rows.json").read_text())
    data = InstructionRows(str(lm_folder / "rows.json"), tokenizer, TEMPLATE)
    assert len(data) == len(rows)
    for index, row in enumerate(rows):
        sample = data[index]
        ids, split = sample["inputs"].tolist(), sample["data_samples"]["context_len"]
        middle = f" / {row['input']}" if row["input"] else ""
        assert data.tokenizer.decode(ids[:split]) == f"Q {row['instruction']}{middle}\nA "
        assert data.tokenizer.decode(ids[split:-1]) == row["output"]
        assert ids[-1] == data.tokenizer.eos_token_id
        assert sample["data_samples"]["responses"] == [(split, len(ids))]
    assert data.name(3) == f"row 3 of {lm_folder / 'rows.json'} (line 1)"


def test_parts_of_rows_are_disjoint_and_complete(lm_folder, tokenizer):
    parts = {}
    for part in ("train", "held_out"):
        data = InstructionRows(str(lm_folder / "rows.json"), tokenizer, TEMPLATE, part=part, held_out_every=10)
        parts[part] = [data.name(index) for index in range(len(data))]
    assert [name.split()[1] for name in parts["held_out"]] == ["9", "19", "29", "39"]
    assert len(set(parts["train"]) | set(parts["held_out"])) == 40 == len(parts["train"]) + 4


def test_long_responses_are_cut(lm_folder, tokenizer):
    whole = InstructionRows(str(lm_folder / "rows.json"), tokenizer, TEMPLATE)
    context = max(sample["data_samples"]["context_len"] for sample in whole)
    cut = InstructionRows(str(lm_folder / "rows.json"), tokenizer, TEMPLATE, max_length=context + 1)
    for a, b in zip(whole, cut, strict=True):
        assert b["inputs"].tolist() == a["inputs"].tolist()[: context + 1]


GOOD = {"instruction": "Say one", "input": "", "output": "one"}
FAULTS = {
    "has no response": GOOD | {"output": " "},
    "has an empty prompt": GOOD | {"instruction": ""},
    "has a prompt that leaves no room for a response in max_length=60": GOOD | {"instruction": "one " * 100},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_rows(tokenizer, tmp_path, fault):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([GOOD, FAULTS[fault], GOOD]))
    with pytest.raises(DataError) as error:
        InstructionRows(str(path), tokenizer, TEMPLATE, max_length=60)
    assert str(error.value).startswith(f"row 1 of {path} (line 1) {fault}")
    assert "\n" not in str(error.value)
    data = InstructionRows(str(path), tokenizer, TEMPLATE, max_length=60, faulty="skip")
    assert [data.name(index) for index in range(len(data))] == [f"row {n} of {path} (line 1)" for n in (0, 2)]
    path.write_text(json.dumps([FAULTS[fault]]))
    with pytest.raises(
        DataError, match=r"1 of 1 rows cannot be used, which is more than half; row 0 of .* \(line 1\) has"
    ):
        InstructionRows(str(path), tokenizer, TEMPLATE, max_length=60, faulty="skip")
    with pytest.raises(DataError, match="has no usable row for the part 'held_out'"):
        InstructionRows(str(path), tokenizer, TEMPLATE, part="held_out", held_out_every=2, faulty="skip")


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(f"{record.levelname.lower()}: {record.getMessage()}")


@pytest.fixture
def told():
    """What is logged."""
    logger, handler = MMLogger.get_instance("test_text"), Lines()  # the latest logger is the current one
    logger.setLevel("INFO")
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)
    MMLogger._instance_dict.pop("test_text")


def test_what_became_of_the_rows_is_told_once(tokenizer, tmp_path, told):
    long = GOOD | {"output": "one " * 100}
    rows = [GOOD, *[long] * 3, {"a": 1}, {"b": 2}, GOOD | {"output": None}, GOOD, GOOD]
    path = tmp_path / "rows.jsonl"
    path.write_text("{\n" + "\n".join(map(json.dumps, rows)))
    data = InstructionRows(str(path), tokenizer, TEMPLATE, max_length=60, faulty="skip")
    assert len(data) == 6
    of = f"of 10 rows of {path}"
    assert told == [
        f"warning: left out 1 {of}: each is not valid JSON; the first is row 0 of {path} (line 1) is not valid JSON "
        "(Expecting property name enclosed in double quotes)",
        f"warning: left out 2 {of}: each has no column that is read; the first is row 5 of {path} (line 6) "
        "has no column that is read (it has a)",
        f"warning: left out 1 {of}: each has no response; the first is row 7 of {path} (line 8) has no response",
        f"info: cut 3 {of} at max_length=60 tokens",
    ]
    path.write_text("\n".join(map(json.dumps, [*rows, {}, {}, {}, {}])))
    with pytest.raises(
        DataError, match=r"^7 of 13 rows cannot be used, which is more than half; row 4 of .* \(line 5\) "
    ):
        InstructionRows(str(path), tokenizer, TEMPLATE, max_length=60, faulty="skip")


def test_faulty_files_and_arguments(lm_folder, tokenizer, tmp_path):
    with pytest.raises(DataError, match="there is no data file"):
        InstructionRows(str(tmp_path / "x.json"), tokenizer, TEMPLATE)
    for text, words in (
        ("[{", "is not valid JSON"),
        ('{"a": 1}', r"row 0 of .* \(line 1\) has no column that is read \(it has a\)"),
    ):
        (tmp_path / "y.json").write_text(text)
        with pytest.raises(DataError, match=words):
            InstructionRows(str(tmp_path / "y.json"), tokenizer, TEMPLATE)
    path = str(lm_folder / "rows.json")
    for template, words in (
        (dict(with_input="{input}"), "has the keys with_input and without_input, not with_input"),
        (
            TEMPLATE | dict(with_input="{question}"),
            r"template with_input may have .* nothing else, but .* KeyError: 'question'",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            InstructionRows(path, tokenizer, template)
    with pytest.raises(ConfigError, match="'reply' is none of them"):
        InstructionRows(path, tokenizer, TEMPLATE, columns={"reply": "output"})
    with pytest.raises(ConfigError, match="'train' or 'held_out', not 'val'"):
        InstructionRows(path, tokenizer, TEMPLATE, part="val")
    with pytest.raises(ConfigError, match="'raise' or 'skip', not 'ignore'"):
        InstructionRows(path, tokenizer, TEMPLATE, faulty="ignore")
    with pytest.raises(DataError, match="too few for a block of 100000"):
        TextBlocks(str(lm_folder / "text.txt"), tokenizer, length=100000)


@pytest.mark.parametrize("size", [1, 3, 10, 64, 1000])
def test_pieces_of_a_text_have_the_tokens_of_the_whole(lm_folder, tokenizer, tmp_path, size):
    text = (lm_folder / "text.txt").read_text()[:2000] + "Ein  Wort.\n\n\n(äß) \t 12 a_b\n \n字 字字\x85\u2028 x" * 20
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    encode = functools.partial(TASK_UTILS.build(tokenizer).encode, add_special_tokens=False)
    pieces = list(text_pieces(str(tmp_path / "a.txt"), size))
    assert "".join(pieces) == text
    if size > 40:  # as long as a piece has a word and a blank
        assert len(pieces) > 2
        assert [token for piece in pieces for token in encode(piece)] == encode(text)


def test_workers_read_the_rows_of_their_parent(lm_folder, tokenizer):
    data = InstructionRows(str(lm_folder / "rows.json"), tokenizer, TEMPLATE)
    copy = pickle.loads(pickle.dumps(data.store))
    assert len(copy) == len(data) == 40
    for index in (39, 0, 7):
        theirs, ours = copy[index], data.row(index)
        assert theirs.tokens.tolist() == ours.tokens.tolist()
        assert theirs[1:] == ours[1:]


def test_a_full_disk_is_one_line():
    store = TokenStore()
    with open("/dev/full", "wb", buffering=0) as store._file, pytest.raises(WriteError) as error:
        store.append([1, 2], [(0, 2)], 0)
    assert error.value.full
    assert str(error.value).endswith(": No space left on device; TMPDIR names another")


def test_blocks_are_the_text(lm_folder, tokenizer):
    parts = [
        TextBlocks(str(lm_folder / "text.txt"), tokenizer, length=32, part=p, held_out=0.2)
        for p in ("train", "held_out")
    ]
    ids = [t for part in parts for sample in part for t in sample["inputs"].tolist()]
    text = (lm_folder / "text.txt").read_text()
    assert text.startswith(parts[0].tokenizer.decode(ids))
    assert len(parts[1]) == round(0.2 * len(ids) / 32)
    assert {sample["data_samples"]["context_len"] for part in parts for sample in part} == {0}


def test_batches_are_padded_on_the_right():
    samples = [
        {"inputs": torch.tensor(ids), "data_samples": {"context_len": c, "index": i}}
        for i, (ids, c) in enumerate([([5, 6, 7], 2), ([8], 0)])
    ]
    batch = pad_rows(samples)
    assert batch["inputs"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["data_samples"]["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["data_samples"]["context_len"].tolist() == [2, 0]
    assert batch["data_samples"]["labels"].tolist() == [[-100, -100, 7], [8, -100, -100]]


CHATML = (
    "{% for m in messages %}{{ '<' + m.role + '>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>\n' }}{% endif %}"
)


def said(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def learnt(data, index):
    """The texts of a row that are labels in a batch."""
    batch = pad_rows([data[index], data[0]])
    labels = batch["data_samples"]["labels"][0].tolist()
    runs = [[*run] for is_label, run in itertools.groupby(labels, lambda label: label != -100) if is_label]
    return [data.tokenizer.decode(run).removesuffix(data.tokenizer.eos_token) for run in runs]


def test_conversations(tokenizer, tmp_path, told):
    """Every response is learnt; system prompts, the messages of users and the padding are not."""
    chat = said(("system", "Say it."), ("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"))
    rows = [
        {"messages": chat},
        {"conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two"}], "system": "Say it."},
        {"messages": [*chat, {"role": "user", "content": "and then?"}]},
        GOOD,
        GOOD | {"history": [["one", "two"]]},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    data = InstructionRows(str(tmp_path / "rows.json"), tokenizer | {"chat_template": CHATML}, TEMPLATE)
    assert [learnt(data, index) for index in range(5)] == [
        ["two", "four"],
        ["two"],
        ["two", "four"],
        ["one"],
        ["two", "one"],
    ]
    for index, messages in enumerate((chat, chat[:3], chat)):
        assert data[index]["inputs"].tolist() == data.tokenizer.apply_chat_template(messages)["input_ids"]
    first = data[0]["data_samples"]["context_len"]
    assert (
        data[0]["inputs"][:first].tolist()
        == (data.tokenizer.apply_chat_template(chat[:2], add_generation_prompt=True)["input_ids"])
    )
    assert told == [f"info: left off what follows the last response in 1 of 5 rows of {tmp_path / 'rows.json'}"]
    plain = InstructionRows(str(tmp_path / "rows.json"), tokenizer | {"chat_template": CHATML})
    asked = said(("user", "Say one"), ("assistant", "one"))
    assert plain[3]["inputs"].tolist() == data.tokenizer.apply_chat_template(asked)["input_ids"]
    with pytest.raises(ConfigError, match="the rows are conversations, and the tokenizer has no chat template"):
        InstructionRows(str(tmp_path / "rows.json"), tokenizer, TEMPLATE, faulty="skip")


def test_cut_conversations(tokenizer, tmp_path):
    """A response is cut at the end of its row, and a row whose first response begins behind it is left out."""
    chat = said(("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four five six"))
    (tmp_path / "rows.json").write_text(json.dumps([{"messages": chat}] * 2))
    chatty = tokenizer | {"chat_template": CHATML}
    whole = InstructionRows(str(tmp_path / "rows.json"), chatty)[0]
    (first, end), (second, _) = whole["data_samples"]["responses"]
    for length, expected in (
        (first + 1, [(first, first + 1)]),
        (second, [(first, end)]),
        (second + 1, [(first, end), (second, second + 1)]),
    ):
        sample = InstructionRows(str(tmp_path / "rows.json"), chatty, max_length=length)[0]
        assert sample["inputs"].tolist() == whole["inputs"][:length].tolist()
        assert sample["data_samples"]["responses"] == expected
    with pytest.raises(DataError, match=rf"leaves no room for a response in max_length={first} \({first} tokens\)"):
        InstructionRows(str(tmp_path / "rows.json"), chatty, max_length=first)


def test_a_chat_template_without_ends_is_told(tokenizer, tmp_path, told):
    (tmp_path / "rows.json").write_text(json.dumps([{"messages": said(("user", "one"), ("assistant", "two"))}]))
    InstructionRows(str(tmp_path / "rows.json"), tokenizer | {"chat_template": CHATML.replace("eos_token", "''")})
    assert len(told) == 1
    assert "of 1 of 1 rows of" in told[0]
    assert "does not end in the tokenizer's eos token" in told[0]


def test_the_page_of_language_models(tokenizer, tmp_path):
    """The rows on the page are understood, and its template and its config are right."""
    page = (ROOT / "docs" / "language.md").read_text()
    blocks = {kind: re.findall(rf"^```{kind}\n(.*?)^```", page, re.DOTALL | re.MULTILINE) for kind in ("json", "jinja")}
    (tmp_path / "rows.json").write_text("".join(blocks["json"]))
    (tmp_path / "chat.jinja").write_text(blocks["jinja"][0])
    chatty = tokenizer | {"chat_template": str(tmp_path / "chat.jinja")}
    data = InstructionRows(str(tmp_path / "rows.json"), chatty)
    assert [learnt(data, index) for index in range(len(data))] == [
        ["Baum"], ["0"], ["A model."], ["3", "7"], ["Hello."], ["Hello.", "Bye."]
    ]  # fmt: skip
    end = data.tokenizer.eos_token
    assert data.tokenizer.decode(data[4]["inputs"]) == (
        f"### system:\nBe brief.\n\n### user:\nHi\n\n### assistant:\nHello.{end}\n\n"
    )
    messages = said(("system", "Be brief."), ("user", "Hi"))
    prompt = data.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert data[4]["inputs"].tolist()[: len(prompt)] == prompt
    assert data[4]["data_samples"]["context_len"] == len(prompt)
    [config] = [
        block for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if "_base_" in block
    ]
    (tmp_path / "chat.py").write_text(config)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    loaded = load_config(tmp_path / "chat.py").train_dataloader.dataset
    assert (loaded.type, loaded.path, loaded.tokenizer.type) == (
        "InstructionRows", "data/chat.jsonl", "tree_ssm.language.load_tokenizer"
    )  # fmt: skip
    with pytest.raises(ConfigError, match="cannot read the chat template"):
        InstructionRows(str(tmp_path / "rows.json"), tokenizer | {"chat_template": str(tmp_path / "no.jinja")})
