"""The commands and files that CONTRIBUTING.md, docs/release.md and the workflows name exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import ROOT

PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "release.md"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FENCE = re.compile(r"^ *```bash\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PROGRAMS = Path(sys.executable).parent  # the environment that runs the tests


def steps(workflow):
    """Yield the commands of a workflow, step by step."""
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        yield from (step["run"] for step in job["steps"] if "run" in step)


def commands():
    texts = [block for page in PAGES for block in FENCE.findall(page.read_text())]
    texts += [text for workflow in WORKFLOWS for text in steps(workflow)]
    for line in "".join(f"{text}\n" for text in texts).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words:
            yield tuple(words)


COMMANDS = sorted(set(commands()))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_command(command):
    """make has the target, the program is installed, and the files exist."""
    program, *arguments = command
    if program == "make":
        targets = [word for word in arguments if "=" not in word]
        assert targets
        assert set(targets) <= TARGETS
    elif program.startswith(".venv/bin/"):
        assert (PROGRAMS / program.removeprefix(".venv/bin/")).exists()
    for word in arguments:
        if word.startswith(("tests/", "tools/", "requirements/")):
            assert (ROOT / word.partition("::")[0]).exists()


def test_named_tests_are_collected():
    named = [word for command in COMMANDS for word in command if "::" in word]
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
