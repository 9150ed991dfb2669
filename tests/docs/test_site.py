"""The documentation site builds without a warning, loads nothing from other sites, and reports faulty pages."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml
from command_line import ROOT

BUILD = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir"]


def build(folder, site):
    """Build the site of a checkout. Return the warnings and whether the build succeeded."""
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
    """No page loads a script, a style, a font or a picture from another site."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="([^"]+)"', text)
        assert not [address for address in loaded if address.startswith(("http", "//"))], page
    assert not [css for css in site.rglob("*.css") if re.search(r"url\([\"']?https?:", css.read_text())]


def named(entries):
    """Return all pages that a part of the navigation names."""
    if isinstance(entries, str):
        return [entries]
    return [page for entry in (entries.values() if isinstance(entries, dict) else entries) for page in named(entry)]


# Only this part of the file is parsed, because other parts have tags that only MkDocs can read.
NAVIGATION = named(yaml.safe_load(re.search(r"^nav:.*", (ROOT / "mkdocs.yml").read_text(), re.M | re.S)[0])["nav"])


def test_every_operator_is_in_the_navigation():
    folders = [path.parent for path in ROOT.glob("*/ops/*/register.py")]
    assert len(folders) == 15
    maths = {f"source/{folder.relative_to(ROOT).as_posix()}/README.md" for folder in folders}
    assert maths <= set(NAVIGATION)
    pages = {(ROOT / "docs" / page) for page in NAVIGATION if page.startswith("ops/")}
    links = [
        target for page in pages for target in re.findall(r"\]\(\.\./\.\./([\w/]+)/README\.md\)", page.read_text())
    ]
    assert {folder.relative_to(ROOT).as_posix() for folder in folders} <= set(links), "and has a page that explains it"


@pytest.mark.parametrize("page", NAVIGATION)
def test_one_title_a_page(page, site):
    text = (site / page).with_suffix(".html")
    text = text if text.is_file() else (site / page).with_name("index.html")
    assert text.read_text().count("<h1") == 1


def test_pictures_enlarge(site):
    page = (site / "gallery.html").read_text()
    pictures = re.findall(r'<img[^>]+src="(images/gallery_[^"]+)"', page)
    assert len(pictures) > 5
    assert set(pictures) <= set(re.findall(r'<a class="glightbox"[^>]*href="([^"]+)"', page))


# Finds elements that reach beyond the window, or beyond a block that hides the rest, and cannot be scrolled to.
CUT_OFF = """() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > width) found.push("the page");
  for (const element of document.querySelectorAll(".md-content :is(pre, table, code, img, p, li, h1, h2, h3, math)")) {
    const box = element.getBoundingClientRect();
    let limit = width, scrolls = box.width === 0;
    for (let outer = element.parentElement; outer && !scrolls; outer = outer.parentElement) {
      const overflow = getComputedStyle(outer).overflowX;
      if (/auto|scroll/.test(overflow)) scrolls = true;
      else if (/hidden|clip/.test(overflow)) limit = Math.min(limit, outer.getBoundingClientRect().right);
    }
    if (!scrolls && box.right > limit + 1) found.push(element.tagName + " " + element.textContent.slice(0, 60));
  }
  return found;
}"""


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_cut_off(width, site, browser):
    window = browser.new_page(viewport={"width": width, "height": 900})
    for page in (
        "index",
        "results",
        "upgrading",
        "config",
        "model_zoo",
        "ops/performance",
        "papers/quadmamba",
        "api/ops",
    ):
        window.goto((site / f"{page}.html").as_uri())
        assert window.evaluate(CUT_OFF) == [], page


def test_formulas_are_drawn(site):
    page = (site / "papers" / "quadmamba.html").read_text()
    assert page.count("<math") > 15
    assert not re.search(r"arithmatex|<mi>\\|\$\$", page)


BROKEN = """# A page

[a file](../tools/nowhere.py), [a place](#nowhere), [a place elsewhere](other.md#nowhere), [a page](missing.md),
a formula $\\nowhere x$ and [what is there](../README.md#a-library).
"""


def test_notices_what_is_wrong(tmp_path):
    """Our hooks report the faults of a small site: links to missing files and anchors, and faulty TeX."""
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
