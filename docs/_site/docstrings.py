"""An extension of griffe: docstrings refer to code as Sphinx does (``:func:`~a.b.c```); the site shows plain code."""

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`~?\.*([^`]*)`")
_LITERAL = re.compile(r"``([^`]+)``")


def plain(text: str) -> str:
    """A docstring with its roles and double backticks as Markdown code."""
    return _LITERAL.sub(r"`\1`", _ROLE.sub(lambda match: f"`{match[1].rsplit('.', 1)[-1]}`", text))


class Docstrings(Extension):
    """Rewrites every docstring that is loaded."""

    def on_object(self, *, obj: Object, **options: Any) -> None:
        """Rewrite one."""
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)
