"""Google-style docstrings, by napoleon's parser.

The extension sphinx.ext.napoleon itself takes what stands before the first colon of a property's
docstring, or of a "Returns" section, for a type, and knows no sections in properties. Here a
property is read like a method, and types are told by annotations alone.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon.docstring import GoogleDocstring


class _Docstring(GoogleDocstring):
    def _consume_returns_section(
        self,
        preprocess_types: bool = False,
    ) -> list[tuple[str, str, list[str]]]:
        lines = self._dedent(self._consume_to_next_section())
        return [("", "", lines)] if lines else []


def _process(
    _app: Sphinx, what: Any, name: str, obj: object, options: object, lines: list[str]
) -> None:
    kind: Any = "method" if what in {"property", "attribute"} else what
    lines[:] = _Docstring(lines, None, None, kind, name, obj, options).lines()


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
