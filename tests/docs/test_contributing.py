"""The files that CONTRIBUTING.md and docs/release.md name exist, and what they say of other files is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import ROOT
from page_commands import commands_of

PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "release.md"]
PROGRAMS = Path(sys.executable).parent  # the environment that runs the tests


def test_named_tests_are_collected():
    named = [word for command in commands_of(PAGES) for word in command if "::" in word]
    assert named
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *named]
    done = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "stability.md"], ids=lambda page: page.name)
def test_named_files_are_there(page):
    """Every path in backticks exists. Patterns and placeholders are left out."""
    paths = re.findall(r"`((?:\w[\w.-]*/)+[\w.-]*|\w+\.(?:md|yml|toml))`", page.read_text())
    ours = [path for path in paths if (ROOT / path.partition("/")[0]).exists()]
    assert ours
    assert all((ROOT / path).exists() for path in ours), ours


def test_pre_commit_hooks():
    """The file is valid, and the environment contains its programs."""
    validate = [PROGRAMS / "pre-commit", "validate-config", ROOT / ".pre-commit-config.yaml"]
    done = subprocess.run(validate, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    programs = [hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks]
    assert {"ruff", "clang-format", "lint-imports"} <= set(programs)
    assert all((PROGRAMS / program).exists() for program in programs)


def test_citation():
    """The file names both papers. It does not state the version, which only ssm_core does."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    titles = " ".join(reference["title"] for reference in citation["references"])
    assert "QuadMamba" in titles
    assert "MambaTree" in titles
    assert "version" not in citation


def test_the_version_is_in_one_place():
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project
    assert '{attr = "ssm_core.__version__"}' in project
    assert not re.search(r"^version\s*=\s*\"", project, re.MULTILINE)


def test_the_oldest_versions_are_those_that_are_promised():
    promised = re.search(r"^dependencies = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    tested = (ROOT / "requirements" / "oldest.txt").read_text()
    for name, version in re.findall(r'"([\w-]+)>=([\d.]+)"', promised):
        assert re.search(rf"^{name}=={re.escape(version)}(\.0)?$", tested, re.MULTILINE), name
