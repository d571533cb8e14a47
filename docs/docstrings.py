"""Reads our docstrings for the reference: ``name: text`` in a section becomes what numpydoc asks for."""

from __future__ import annotations

import re
from typing import Any

from griffe import Docstring, Extension, Object

_SECTION = re.compile(r"^(Parameters|Raises|Returns)\n-+\n((?:.+\n?)*)", re.MULTILINE)
_ENTRY = re.compile(r"^(\w(?:[\w, ]*\w)?): (?=\S)", re.MULTILINE)
_ROLE = re.compile(r":(?:class|meth|func):(?=`)")


def numpydoc(text: str) -> str:
    """Text with every one-line entry of a section on two lines, and without Sphinx's roles."""
    sections = _SECTION.sub(lambda section: _ENTRY.sub(r"\1\n    ", section[0]), text)
    return _ROLE.sub("", sections)


class HouseDocstrings(Extension):
    """Rewrites every docstring before it is parsed."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Called for every module, class, function and attribute."""
        if isinstance(obj.docstring, Docstring):
            obj.docstring.value = numpydoc(obj.docstring.value)
