"""The documentation site: it builds without a warning, needs nothing from elsewhere, and notices what is wrong."""

import re
import shutil
import subprocess
import sys

import pytest
from command_line import ROOT

BUILD = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir"]


def build(folder, site):
    """Build the site of a checkout; the warnings, and whether it was built."""
    done = subprocess.run([*BUILD, site], cwd=folder, capture_output=True, text=True)
    return [line for line in done.stderr.splitlines() if line.startswith(("WARNING", "ERROR"))], done.returncode == 0


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    warnings, built = build(ROOT, folder)
    assert built, warnings
    return folder


def test_builds_strictly(site):
    names = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {"index.html", "papers/mambatree.html", "api/ops.html", "source/CHANGELOG.html"} <= names
    assert "source/tree_ssm/ops/tree_scan/index.html" in names, "the operators' maths is on the site"
    assert "source/configs/quadmamba/quadmamba-nano_digits.py.html" in names, "and the sources that pages link to"


def test_needs_nothing_from_elsewhere(site):
    """No page loads a script, a style, a font or a picture from another place."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="([^"]+)"', text)
        assert not [address for address in loaded if address.startswith(("http", "//"))], page
    assert not [css for css in site.rglob("*.css") if re.search(r"url\([\"']?https?:", css.read_text())]


def test_formulas_are_drawn(site):
    page = (site / "papers" / "quadmamba.html").read_text()
    assert page.count("<math") > 15
    assert not re.search(r"arithmatex|<mi>\\|\$\$", page)


BROKEN = """# A page

[a file](../tools/nowhere.py), [a place](#nowhere), [a place elsewhere](other.md#nowhere), [a page](missing.md),
a formula $\\nowhere x$ and [what is there](../README.md#a-library).
"""


def test_notices_what_is_wrong(tmp_path):
    """Our hooks over a small site of their own: links to files and places that are not there, and faulty TeX."""
    shutil.copytree(ROOT / "docs" / "_site", tmp_path / "docs" / "_site")
    settings = re.sub(
        r"^nav:.*|^plugins:.*?(?=^\S)", "", (ROOT / "mkdocs.yml").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    (tmp_path / "mkdocs.yml").write_text(settings)
    (tmp_path / "README.md").write_text("# A library\n\n[The page](docs/page.md), [a script](tools/run.py)\n")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "run.py").write_text("print()\n")
    (tmp_path / "docs" / "page.md").write_text(BROKEN)
    (tmp_path / "docs" / "other.md").write_text("# Other\n")
    warnings, built = build(tmp_path, tmp_path / "site")
    assert not built
    expected = ["tools/nowhere.py", "'#nowhere'", "'other.md#nowhere'", "docs/missing.md", "\\nowhere"]
    assert all(any(words in line for line in warnings) for words in expected), warnings
    assert len(warnings) == len(expected), warnings

    (tmp_path / "docs" / "page.md").write_text(f"# A page\n\n{BROKEN.splitlines()[-1].partition(' and ')[2]}\n")
    warnings, built = build(tmp_path, tmp_path / "site")
    assert built, warnings
    assert "print" in (tmp_path / "site" / "source" / "tools" / "run.py.html").read_text()
    assert 'href="index.html#a-library"' in (tmp_path / "site" / "page.html").read_text()
