"""Loading the compiled library: absent, damaged, older than the Python code. It is never a reason to stop."""

import pytest

from ssm_core import _ext

# Without the cache, which holds what was found when the process started.
load = _ext.load.__wrapped__


def test_it_is_built_and_loads_twice():
    assert load()
    assert load()


def test_absent(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(_ext, "__file__", str(tmp_path / "_ext.py"))
    assert not load()
    # A warning of another kind is of what happens to be thrown away meanwhile, such as an unclosed file.
    assert UserWarning not in {w.category for w in recwarn}, "the warning is for the operator that then runs slowly"


def test_damaged_or_of_another_torch(tmp_path, monkeypatch):
    (tmp_path / "_C.abi3.so").write_bytes(b"not a library")
    monkeypatch.setattr(_ext, "__file__", str(tmp_path / "_ext.py"))
    with pytest.warns(UserWarning, match=r"_C.abi3.so does not load with torch .* build it with `make setup`"):
        assert not load()


def test_older_than_the_python_code(monkeypatch):
    monkeypatch.setattr(_ext, "OPERATORS", (*_ext.OPERATORS, "tree_ssm::of_tomorrow"))
    with pytest.warns(UserWarning, match="is older than the Python code: it lacks tree_ssm::of_tomorrow"):
        assert not load()
