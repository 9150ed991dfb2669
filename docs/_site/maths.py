r"""A hook of MkDocs: TeX between ``$`` or ``$$`` becomes MathML, which browsers draw themselves.

So formulas need no script and no network. What the converter does not know is a warning, which ends the strict build.
"""

import html
import inspect
import logging
import re

from latex2mathml import exceptions
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_ERRORS = tuple(kind for _, kind in inspect.getmembers(exceptions, inspect.isclass))  # they have no common base
_UNKNOWN = re.compile(r"<mi>(\\[^<]*)</mi>")
log = logging.getLogger("mkdocs.hooks.maths")


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert the formulas of a page."""

    def draw(match: re.Match[str]) -> str:
        tex = html.unescape(match[2]).strip()
        try:
            drawn = convert(tex, display="block" if match[1] == "div" else "inline")
        except _ERRORS as error:
            log.warning(f"'{page.file.src_uri}': the formula {tex!r} is not TeX: {type(error).__name__} {error}")
            return match[0]
        for name in _UNKNOWN.findall(drawn):
            log.warning(f"'{page.file.src_uri}': the formula {tex!r} has {name}, which has no MathML")
        return f'<div class="formula">{drawn}</div>' if match[1] == "div" else drawn

    return _FORMULA.sub(draw, content)
