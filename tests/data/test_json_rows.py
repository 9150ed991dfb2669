"""Files of rows as people have them: what a file holds is seen from its content, and only a part of it is in memory."""

import json
import tracemalloc

import pytest

from ssm_core.errors import DataError
from ssm_train.data import json_rows as module
from ssm_train.data.faults import Unusable
from ssm_train.data.json_rows import json_rows

ROWS = [
    {"instruction": "Say äß\u2028\u0085\u2029 \x1c\v\f.", "input": "", "output": 'a\nb \\ "[{,}]" \U0001f600'},
    {"n": [0, -1, 2.5, 1e-7, 123456789012345678901234567890], "deep": {"a": [{"b": [[]]}, None, True, False]}},
    {},
    {"messages": [{"role": "user", "content": "{"}, {"role": "assistant", "content": "}"}]},
]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
LAYOUTS = {
    "a list": json.dumps(ROWS),
    "an indented list": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "a list, a row a line": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "lines": LINES,
    "lines that end": LINES + "\n",
    "Windows lines": LINES.replace("\n", "\r\n") + "\r\n",
    "lines with blank ones": "\n \n" + LINES.replace("\n", "\n\n\n"),
    "indented rows": "\n".join(json.dumps(row, indent=4) for row in ROWS),
    "rows without blanks between": "".join(map(json.dumps, ROWS)),
    "an object with the list": json.dumps({"v": 10**30, "info": [{"data": 2}], "data": ROWS, "n": 4}),
    "an indented object with the list": json.dumps({"type": "text2text", "instances": ROWS}, indent=1),
}


def contents(path):
    return [row.value for row in json_rows(path)]


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "BOM"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, mark, tmp_path, monkeypatch):
    for name in ("rows.json", "rows.jsonl"):
        (tmp_path / name).write_bytes((mark + LAYOUTS[layout]).encode())
        assert contents(tmp_path / name) == ROWS
    for window in (1, 2, 3, 5, 7, 20):  # a window may end within any token
        monkeypatch.setattr(module, "_WINDOW", window)
        assert contents(tmp_path / "rows.json") == ROWS
    assert [row.number for row in json_rows(tmp_path / "rows.json")] == [0, 1, 2, 3]


def test_rows_have_the_lines_of_their_beginnings(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text(text := json.dumps([{"a": "{\n"}, {"b": 1}, {"c": [1, 2]}], indent=1))
    expected = [place for place, line in enumerate(text.splitlines(), 1) if line == " {"]
    monkeypatch.setattr(module, "_WINDOW", 5)
    assert [row.line for row in json_rows(tmp_path / "a.json")] == expected == [2, 5, 8]
    (tmp_path / "b.jsonl").write_text('\n{"a": 1}\n\n{"b": 2}\n')
    assert [row.line for row in json_rows(tmp_path / "b.jsonl")] == [2, 4]


FAULTY_LINES = {
    "cut off": b'{"a": ',
    "no JSON": b"hello",
    "not UTF-8": b'{"a": "\xff"}',
    "two rows": b'{"a": 1}{"b": 2}',
    "too deep": b"[" * 100_000,
    "a comma": b'{"a": 1},',
}


@pytest.mark.parametrize("fault", FAULTY_LINES)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_faulty_line_is_a_faulty_row(fault, place, tmp_path):
    lines = [b'{"a": 1}', b'{"a": 2}']
    lines.insert(place, FAULTY_LINES[fault])
    (tmp_path / "a.json").write_bytes(b"\n".join(lines))
    rows = list(json_rows(tmp_path / "a.json"))
    assert [row.number for row in rows if isinstance(row.value, Unusable)] == [place] == [rows[place].line - 1]
    assert [row.value for row in rows if row.number != place] == [{"a": 1}, {"a": 2}]
    assert rows[place].value.kind == "is not valid JSON"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[{", r"is not valid JSON: Expecting property name .* \(line 1\)"),
        (b'[\n{"a": 1},\n{"a": ]\n', r"is not valid JSON: Expecting value \(line 3\)"),
        (b'[\n{"a": 1}\n{"a": 2}]\n', r"is not valid JSON: Expecting ',' \(line 3\)"),
        (b'[{"a": "x', r"Unterminated string .* \(line 1\)"),
        (b'[{"a": 1}', r"Expecting ',' \(line 1\)"),
        (b"a,b\n1,2\n", r"it begins with 'a', and rows begin with '\[' or '\{' \(line 1\)"),
        (b'[{"a": "\xff"}]', "cannot read the data file .* codec can't decode"),
        ('[{"a": 1}]'.encode("utf-16"), "is in UTF-16, .* save it as UTF-8"),
        (b"PAR1\x00\x15\x04\x15\x10", "it begins with 'P'"),
    ],
)
def test_faulty_files(content, words, tmp_path, monkeypatch):
    for window in (2**20, 3):
        monkeypatch.setattr(module, "_WINDOW", window)
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(DataError, match=words) as error:
            list(json_rows(tmp_path / "a.json"))
        assert str(tmp_path / "a.json") in str(error.value)
        assert "\n" not in str(error.value)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(DataError, match="there is no data file"):
        list(json_rows(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text(" \n")
    assert contents(tmp_path / "a.json") == []


@pytest.mark.parametrize("layout", ["list", "lines", "object"])
def test_memory_does_not_grow_with_the_file(layout, tmp_path):
    row = json.dumps({"text": "x" * 5000})
    between, around = {"list": (",", "[%s]"), "lines": ("\n", "%s"), "object": (",", '{"data": [%s]}')}[layout]
    (tmp_path / "a.json").write_text(around % between.join([row] * 4000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in json_rows(tmp_path / "a.json")) == 4000
        assert tracemalloc.get_traced_memory()[1] < 8e6 < (tmp_path / "a.json").stat().st_size / 2
    finally:
        tracemalloc.stop()
