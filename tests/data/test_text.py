"""Tests of rows and blocks of tokens. Every faulty row gets one clear line."""

import json

import pytest
import torch
from mmengine.registry import DefaultScope

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.datasets.text import InstructionRows, TextBlocks, pad_rows

TEMPLATE = dict(with_input="Q {instruction} / {input}\nA ", without_input="Q {instruction}\nA ")


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("ssm_train"):
        yield


@pytest.fixture
def tokenizer(lm_folder):
    return dict(type="tree_ssm.language.load_tokenizer", path=str(lm_folder / "pretrained"))


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
    assert data.name(3) == f"row 3 of {lm_folder / 'rows.json'}"


def test_parts_of_rows_are_disjoint_and_complete(lm_folder, tokenizer):
    parts = {
        part: InstructionRows(str(lm_folder / "rows.json"), tokenizer, TEMPLATE, part=part, held_out_every=10).names
        for part in ("train", "held_out")
    }
    assert [name.split()[1] for name in parts["held_out"]] == ["9", "19", "29", "39"]
    assert len(set(parts["train"]) | set(parts["held_out"])) == 40 == len(parts["train"]) + 4


def test_long_responses_are_cut(lm_folder, tokenizer):
    whole = InstructionRows(str(lm_folder / "rows.json"), tokenizer, TEMPLATE)
    context = max(sample["data_samples"]["context_len"] for sample in whole)
    cut = InstructionRows(str(lm_folder / "rows.json"), tokenizer, TEMPLATE, max_length=context + 1)
    for a, b in zip(whole, cut, strict=True):
        assert b["inputs"].tolist() == a["inputs"].tolist()[: context + 1]


def test_json_lines(lm_folder, tokenizer, tmp_path):
    rows = json.loads((lm_folder / "rows.json").read_text())
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = [
        InstructionRows(str(path), tokenizer, TEMPLATE) for path in (lm_folder / "rows.json", tmp_path / "rows.jsonl")
    ]
    assert data[0].rows == data[1].rows


GOOD = {"instruction": "Say one", "input": "", "output": "one"}
FAULTS = {
    "has no response": GOOD | {"output": " "},
    "has an empty prompt": GOOD | {"instruction": ""},
    "has a prompt that leaves no room for a response in max_length=60": GOOD | {"instruction": "one " * 100},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_rows(tokenizer, tmp_path, fault, caplog):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([GOOD, FAULTS[fault], GOOD]))
    with pytest.raises(DataError) as error:
        InstructionRows(str(path), tokenizer, TEMPLATE, max_length=60)
    assert str(error.value).startswith(f"row 1 of {path} {fault}")
    assert "\n" not in str(error.value)
    data = InstructionRows(str(path), tokenizer, TEMPLATE, max_length=60, faulty="skip")
    assert data.names == [f"row 0 of {path}", f"row 2 of {path}"]
    path.write_text(json.dumps([FAULTS[fault]]))
    with pytest.raises(DataError, match="has no usable row for the part 'train'"):
        InstructionRows(str(path), tokenizer, TEMPLATE, max_length=60, faulty="skip")


def test_faulty_files_and_arguments(lm_folder, tokenizer, tmp_path):
    with pytest.raises(DataError, match="there is no data file"):
        InstructionRows(str(tmp_path / "x.json"), tokenizer, TEMPLATE)
    for text, words in (
        ("[{", "is not valid JSON"),
        ('{"a": 1}', "is no list of rows with instruction, input, output"),
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
    with pytest.raises(ConfigError, match="'train' or 'held_out', not 'val'"):
        InstructionRows(path, tokenizer, TEMPLATE, part="val")
    with pytest.raises(ConfigError, match="'raise' or 'skip', not 'ignore'"):
        InstructionRows(path, tokenizer, TEMPLATE, faulty="ignore")
    with pytest.raises(DataError, match="too few for a block of 100000"):
        TextBlocks(str(lm_folder / "text.txt"), tokenizer, length=100000)


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
