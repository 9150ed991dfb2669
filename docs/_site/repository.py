"""A hook of MkDocs: files of the repository become pages, and links between them and docs/ work on the site.

The site shows the repository, it does not copy it. README.md is the front page, CHANGELOG.md and the operators' README
files are pages, and any other file or folder that a page links to becomes a page of its source: nothing points out of
the site. In the repository the same links are plain relative paths. A link to a file that is not there is a warning,
which ends the strict build.
"""

import logging
import posixpath
import re
import subprocess
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
HOME = "index.md"
SOURCES = "source"  # the folder of the site that mirrors the repository
OUTSIDE = "dev/"  # the records of experiments are no part of the site: links to them become plain text
LANGUAGES = {
    ".py": "python", ".sh": "bash", ".toml": "toml", ".yml": "yaml", ".cpp": "cpp", ".h": "cpp", ".cu": "cuda",
    ".cuh": "cuda", ".json": "json", "Makefile": "make",
}  # fmt: skip
_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
_HEADING = re.compile(r"^#\s", re.MULTILINE)
log = logging.getLogger("mkdocs.hooks.repository")


def tracked() -> set[str]:
    """Paths of all files that git knows, or where there is no git of all files; a page shows no others."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()}
    return set(done.stdout.splitlines())


def page_of(path: str) -> str:
    """The site's page of a file or folder of the repository: its ``src_uri``."""
    if path == "README.md":
        return HOME
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{SOURCES}/{path}" if path.endswith(".md") else f"{SOURCES}/{path}.md"


def file_of(page: str) -> str:
    """The file of the repository that a page shows."""
    if page == HOME:
        return "README.md"
    if not page.startswith(f"{SOURCES}/"):
        return f"docs/{page}"
    inner = page.removeprefix(f"{SOURCES}/")
    return inner if (ROOT / inner).is_file() else inner.removesuffix(".md")


def resolve(origin: str, link: str) -> str:
    """The path in the repository that a link of one of its files points to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link)).removeprefix("./")


def is_local(link: str) -> bool:
    """Whether a link is a path, and not an address or a place on its own page."""
    return bool(link) and not re.match(r"[a-z][a-z+.-]*:|#|/", link)


def source_page(path: str, files: set[str]) -> str:
    """Markdown of a page that shows a file, or lists a folder."""
    hidden = "---\nsearch:\n  exclude: true\n---\n"
    if (ROOT / path).is_dir():
        listed = sorted(f for f in files if posixpath.dirname(f) == path)
        entries = "\n".join(f"- [{PurePosixPath(f).name}]({PurePosixPath(f).name})" for f in listed)
        return f"{hidden}# {path}\n\n{entries}\n"
    text = (ROOT / path).read_text()
    if path.endswith(".md"):
        return text
    language = LANGUAGES.get(PurePosixPath(path).suffix, LANGUAGES.get(PurePosixPath(path).name, "text"))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{hidden}# {path}\n\n{fence}{language}\n{text}\n{fence}\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the front page, and a page for everything that pages link to."""
    known = tracked()
    folders = {parent.as_posix() for f in known for parent in PurePosixPath(f).parents} - {"."}
    waiting = ["README.md"]
    waiting += [file_of(entry) for entry in _entries(config.nav) if entry.startswith(f"{SOURCES}/")]
    waiting += [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        text = source_page(path, known)
        if not path.startswith("docs/"):
            files.append(File.generated(config, page_of(path), content=text))
        if not (path.endswith(".md") or path in folders):
            continue
        for link in (a or b for a, b in _LINK.findall(text)):
            # A folder's page lists its files, so its links start within it.
            origin = f"{path}/" if path in folders else path
            target = resolve(origin, link.partition("#")[0]) if is_local(link) else ""
            if target in known | folders and not target.startswith(("docs/", OUTSIDE)) and target not in seen:
                seen.add(target)
                if Path(target).suffix not in (".png", ".svg"):
                    waiting.append(target)
    return files


def _entries(nav: object) -> list[str]:
    """All pages that the navigation names."""
    if isinstance(nav, str):
        return [nav]
    children = nav.values() if isinstance(nav, dict) else nav or []
    return [entry for child in children for entry in _entries(child)]


class _Links(Treeprocessor):
    """Turns links of a repository file into links of its page, before MkDocs checks them."""

    page = HOME

    def run(self, root: Element) -> None:
        origin = file_of(self.page)
        origin = f"{origin}/" if (ROOT / origin).is_dir() else origin
        for element in root.iter():
            for attribute in ("href", "src"):
                link = element.get(attribute, "")
                if not is_local(link):
                    continue
                path, hash_, anchor = link.partition("#")
                target = resolve(origin, path)
                if not (ROOT / target).exists():
                    log.warning(f"'{origin}' links to '{link}', and there is no {target}")
                    element.tag = "span"  # no link any more, so that MkDocs does not complain as well
                    continue
                if target.startswith(OUTSIDE):
                    element.tag = "span"
                    element.attrib.clear()
                    continue
                relative = posixpath.relpath(page_of(target) if _is_page(target) else target.removeprefix("docs/"),
                                             posixpath.dirname(self.page) or ".")  # fmt: skip
                element.set(attribute, relative + hash_ + anchor)


def _is_page(target: str) -> bool:
    return not target.startswith("docs/") or target.endswith(".md")


class RepositoryLinks(Extension):
    """The Markdown extension around it; one for all pages, told which is being rendered."""

    def __init__(self) -> None:
        super().__init__()
        self.links = _Links()

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  the base class's name
        """Run behind everything that makes links (and inlines), and before MkDocs' own check at 0."""
        md.treeprocessors.register(self.links, "repository_links", 5)


_extension = RepositoryLinks()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let all pages go through the extension."""
    config.markdown_extensions.append(_extension)
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Say which page comes next."""
    _extension.links.page = page.file.src_uri
    return markdown
