"""The pages agree with the code: config keys, types and quoted errors."""

import ast
import re
from typing import get_origin

import pytest
from command_line import ROOT

import quadtree_ssm.ops
import ssm_core.ops
import tree_ssm.ops
from ssm_train.runtime.config_check import TOP_LEVEL_KEYS

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = r"^```{}\n(.*?)^```$"
PACKAGES = ("ssm_core", "quadtree_ssm", "tree_ssm", "ssm_train", "tools")


def fenced(page, language):
    return re.findall(FENCE.format(language), page.read_text(), re.DOTALL | re.MULTILINE)


def documented(page):
    """Return the names in the first column of a page's tables."""
    cells = re.findall(r"^\| (`.*?) \|", (DOCS / page).read_text(), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_keys_of_configs():
    used = set()
    for path in (ROOT / "configs").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign):
                used |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    known = TOP_LEVEL_KEYS | {"tta_model", "tta_pipeline", "tta_transform"}  # --tta reads the last three
    assert used & known <= documented("config.md") <= known


def test_types_of_configs():
    """The reference contains every registered type, and every type that configs name by its full path."""
    named = set()
    for path in (ROOT / "ssm_train").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if any("register_module" in ast.unparse(d) for d in getattr(node, "decorator_list", [])):
                named.add(node.name)
    for path in (ROOT / "configs").rglob("*.py"):
        named |= set(re.findall(r'"ssm_train\.[\w.]+\.(\w+)"', path.read_text()))
    page = re.findall(r"^::: [\w.]+\.(\w+)$", (DOCS / "config.md").read_text(), re.MULTILINE)
    assert named <= set(page)


def messages():
    """Yield every string in the sources, with … in place of inserted values."""
    for path in [ROOT / "setup.py", *(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_functions_of_operators():
    """The reference contains every public function of the operators."""
    page = set(re.findall(r"^::: [\w.]+\.(\w+)$", (DOCS / "api" / "ops.md").read_text(), re.MULTILINE))
    public = {
        name
        for package in (ssm_core.ops, quadtree_ssm.ops, tree_ssm.ops)
        for name in package.__all__
        if callable(getattr(package, name)) and not get_origin(getattr(package, name))
    }
    assert public == page


LOG = ROOT / "dev" / "log"
HEADING = re.compile(r"# (\d{4}-\d{2}-\d{2}) .+ \(.+\)")


@pytest.mark.parametrize("entry", sorted(LOG.glob("[0-9]*.md")), ids=lambda path: path.stem)
def test_experiment(entry):
    """A log entry has the date and the verdict in its heading. It has four sections and a line in the index."""
    text = entry.read_text()
    heading = HEADING.fullmatch(text.splitlines()[0])
    assert heading
    assert entry.name.startswith(heading[1])
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Question", "Change", "Result", "Verdict"]
    assert f"- [{heading[0][2:]}]({entry.name})" in (LOG / "README.md").read_text().splitlines()


QUOTES = [quote.strip() for quote in fenced(DOCS / "troubleshooting.md", "text")]


@pytest.fixture(scope="module")
def sources():
    return list(messages())


@pytest.mark.parametrize("quote", QUOTES)
def test_quoted_error(quote, sources):
    pattern = re.compile(".*?".join(map(re.escape, quote.split("…"))), re.DOTALL)
    assert len(quote.replace("…", "")) > 15
    assert any(pattern.search(text) for text in sources)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "papers").glob("*.md")), ids=lambda page: page.stem)
def test_every_claim_of_a_paper_has_a_verdict_that_the_page_explains(page):
    """A verdict has one meaning: evidence against a claim is another one than too little evidence."""
    text = page.read_text().partition("## The paper's claims, and what was found here")[2]
    explained = set(re.findall(r"^- \*\*(.+?)\*\*: ", text, re.MULTILINE))
    assert explained == {"shown", "against it", "undecided", "not tried here"}
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| claim")]
    assert rows
    for row in rows:
        verdicts = re.findall(r"\*\*(.+?)\*\*", row.rstrip("| ").rpartition(" | ")[2])
        assert verdicts, row
        assert set(verdicts) <= explained, row
