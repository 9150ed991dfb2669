"""Texts from packed files, from datasets of Hugging Face and from kept tokens are those of the plain file."""

import bz2
import gzip
import json
import lzma
import pickle

import datasets
import limited
import pyarrow
import pytest
import runs
from mmengine.registry import DefaultScope

from ssm_core.errors import ConfigError, DataError
from ssm_train.data import json_rows as json_module
from ssm_train.data.datasets import text as text_module
from ssm_train.data.datasets.text import InstructionRows, TextBlocks
from ssm_train.data.faults import Unusable
from ssm_train.data.json_rows import json_rows
from ssm_train.data.token_store import TokenStore

TEMPLATE = dict(with_input="Q {instruction} / {input}\nA ", without_input="Q {instruction}\nA ")


def zstd(content):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("ssm_train"):
        yield


def tokens(data):
    return [(sample["inputs"].tolist(), sample["data_samples"]) for sample in data]


@pytest.mark.parametrize("packer", PACKERS)
def test_packed_files(packer, lm_folder, tokenizer, tmp_path):
    path = tmp_path / "rows.json"
    for content in (lm_folder / "rows.json").read_bytes(), b'{"instruction": "one", "output": "two"}\n' * 3:
        (tmp_path / "plain.json").write_bytes(content)
        path.write_bytes(PACKERS[packer](b"\xef\xbb\xbf" + content))
        plain = InstructionRows(str(tmp_path / "plain.json"), tokenizer, TEMPLATE)
        assert tokens(InstructionRows(str(path), tokenizer, TEMPLATE)) == tokens(plain)
    content = PACKERS[packer]((lm_folder / "text.txt").read_bytes())
    path.write_bytes(content)
    whole = TextBlocks(str(lm_folder / "text.txt"), tokenizer, 16)
    assert tokens(TextBlocks(str(path), tokenizer, 16)) == tokens(whole)
    path.write_bytes(content[: len(content) // 2])
    for read in (lambda: InstructionRows(str(path), tokenizer, TEMPLATE), lambda: TextBlocks(str(path), tokenizer, 16)):
        with pytest.raises(DataError, match=r"cannot read the data file|is not valid JSON"):
            read()
    path.write_bytes(PACKERS[packer]("[]".encode("utf-16")))
    with pytest.raises(DataError, match="is in UTF-16"):
        list(json_rows(path))


def test_a_line_without_end_is_a_faulty_row(tmp_path, monkeypatch):
    monkeypatch.setattr(json_module, "_LONGEST", 100)
    for ending in ("", "\n"):
        for long in (99, 100, 101, 199, 200, 201, 350):
            middle = json.dumps({"a": "x" * (long - 9)})
            assert len(middle) == long
            (tmp_path / "a.jsonl").write_text(f'{{"a": 1}}\n{middle}\n{{"a": 2}}{ending}')
            rows = list(json_rows(tmp_path / "a.jsonl"))
            assert [row.line for row in rows] == [1, 2, 3]
            assert [row.value for row in rows[::2]] == [{"a": 1}, {"a": 2}]
            if long < 100:
                assert rows[1].value == json.loads(middle)
            else:
                assert isinstance(rows[1].value, Unusable)


def test_datasets_of_hugging_face(lm_folder, tokenizer, tmp_path):
    rows = json.loads((lm_folder / "rows.json").read_text())
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "rows")
    settings = dict(part="held_out", held_out_every=10)
    for extra in ({}, settings):
        ours = InstructionRows(str(tmp_path / "rows"), tokenizer, TEMPLATE, split="train", **extra)
        assert tokens(ours) == tokens(InstructionRows(str(lm_folder / "rows.json"), tokenizer, TEMPLATE, **extra))
    assert ours.name(0) == f"row 9 of {tmp_path / 'rows'}:train"
    lines = (lm_folder / "text.txt").read_text().split("\n")[:-1]
    datasets.Dataset.from_dict({"text": lines, "n": list(range(len(lines)))}).save_to_disk(tmp_path / "text")
    whole = tokens(TextBlocks(str(lm_folder / "text.txt"), tokenizer, 16))
    assert tokens(TextBlocks(str(tmp_path / "text"), tokenizer, 16, split="train")) == whole
    with pytest.raises(ConfigError, match=r"has no column 'texts'; it has text, n"):
        TextBlocks(str(tmp_path / "text"), tokenizer, 16, split="train", column="texts")
    with pytest.raises(DataError, match=r"row 0 of .* has no text in 'n'"):
        TextBlocks(str(tmp_path / "text"), tokenizer, 16, split="train", column="n")
    with pytest.raises(DataError, match="is a folder: give the split of the dataset"):
        InstructionRows(str(tmp_path / "rows"), tokenizer, TEMPLATE)
    with pytest.raises(ConfigError, match="needs a split, too"):
        InstructionRows(str(lm_folder / "rows.json"), tokenizer, TEMPLATE, subset="x")


def test_kept_tokens(lm_folder, tokenizer, tmp_path, monkeypatch):
    """Kept tokens are taken for the same content, tokenizer and settings, wherever the file is, and for no others."""
    rows = [*json.loads((lm_folder / "rows.json").read_text()), {"a": 1}, {"instruction": "one " * 90, "output": "two"}]
    path, kept = tmp_path / "rows.jsonl", tmp_path / "kept"
    path.write_text("\n".join(map(json.dumps, rows)))

    def build(file=path, cache=kept, tokenizer=tokenizer, **settings):
        settings = {"template": TEMPLATE, "faulty": "skip", **settings}
        return InstructionRows(str(file), tokenizer, token_cache=cache and str(cache), **settings)

    expected, first = build(cache=None), build()
    [name] = kept.iterdir()
    monkeypatch.setattr(text_module.RowTokenizer, "tokenize", lambda *_: pytest.fail("tokens are made"))
    path.rename(tmp_path / "moved.jsonl")
    second = build(tmp_path / "moved.jsonl")
    assert tokens(first) == tokens(second) == tokens(expected)
    assert tokens(pickle.loads(pickle.dumps(second))) == tokens(expected)
    assert [second.row(n)[2:] for n in range(41)] == [expected.row(n)[2:] for n in range(41)]
    chatty = tokenizer | {"chat_template": "{{ messages }}"}
    changes = [dict(max_length=20), dict(template={k: f"{v}!" for k, v in TEMPLATE.items()}), dict(held_out_every=5),
               dict(columns={"output": "instruction"}), dict(tokenizer=chatty)]  # fmt: skip
    (tmp_path / "other.jsonl").write_text((tmp_path / "moved.jsonl").read_text().replace("one", "two"))
    for change in [*changes, dict(file=tmp_path / "other.jsonl")]:
        with pytest.raises(pytest.fail.Exception):
            build(**{"file": tmp_path / "moved.jsonl", **change})
    assert list(kept.iterdir()) == [name]
    monkeypatch.undo()
    whole = name.read_bytes()
    for damage in (b"", whole[:-1], whole[8:], whole[:-9] + b"x" + whole[-8:]):
        name.write_bytes(damage)
        assert tokens(build(tmp_path / "moved.jsonl")) == tokens(expected)
        assert len(TokenStore(name)) == 41, "they are whole again"
    text = [TextBlocks(str(lm_folder / "text.txt"), tokenizer, 16, part, token_cache=str(kept))
            for part in ("train", "held_out") * 2]  # fmt: skip
    assert len(list(kept.iterdir())) == 2
    assert tokens(text[2]) == tokens(text[0])
    assert tokens(text[3]) == tokens(text[1])


def test_more_tokens_than_memory(tmp_path):
    runs.call(limited.read_tokens, tmp_path / "log", 800, 2**16)
