"""Tests what mypy cannot check: ignored errors have a reason, and the packages are marked as typed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TYPED = ("ssm_core", "quadtree_ssm", "tree_ssm")


@pytest.mark.parametrize("package", TYPED)
def test_ignored_errors_have_a_code_and_a_reason(package):
    lines = [line for path in (ROOT / package).rglob("*.py") for line in path.read_text().splitlines()]
    ignored = [line for line in lines if "type: ignore" in line or "mypy:" in line]
    assert all(re.search(r"# type: ignore\[[a-z-]+\]  # \w", line) for line in ignored), ignored


@pytest.mark.parametrize("package", [*TYPED, "ssm_train"])
def test_packages_are_marked_as_typed(package):
    assert (ROOT / package / "py.typed").is_file()
    assert '"py.typed"' in (ROOT / "pyproject.toml").read_text()
