"""Links that are plain reStructuredText, so that hosts of code can follow them too.

A link to a page names its file, ```Servers <servers.rst#draining>`__``, and leads to the page that
Sphinx makes of it. A literal that is a documented name, such as ```TLSStream``` or
```TLSStream.aclose()```, leads to where that is documented.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

logger = logging.getLogger(__name__)

_PAGE = re.compile(r"(?P<page>[\w-]+)\.rst(?P<rest>#.*)?")
_PACKAGE = "trio_tlsbio"
_CALLED = {"function", "method", "classmethod", "staticmethod"}


def _documented(env: BuildEnvironment) -> dict[str, list[tuple[str, Any]]]:
    """Return what is documented, by its whole name and by its name within its module."""
    found: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for name, entry in env.domains.python_domain.objects.items():
        if entry.aliased or entry.objtype == "module" or not name.startswith(f"{_PACKAGE}."):
            continue
        rest = re.sub(rf"^{_PACKAGE}\.(?:[a-z_]+\.)*(?=\w)", "", name)  # modules are in lower case
        parentheses = "()" if entry.objtype in _CALLED else ""
        for spelling in {name, rest}:
            found[spelling + parentheses].append((name, entry))
    return found


def _the_one(candidates: list[tuple[str, Any]]) -> tuple[str, Any] | None:
    """Choose among names that are spelled the same: the package's own comes first."""
    if len(candidates) > 1:
        candidates = [(name, entry) for name, entry in candidates if _is_of_the_package(name)]
    return candidates[0] if len(candidates) == 1 else None


def _is_of_the_package(name: str) -> bool:
    return not re.match(rf"{_PACKAGE}\.[a-z_]+\.", name)


def _link_pages(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    extra = {path: Path(path).name for path in app.config.html_extra_path}
    for node in list(doctree.findall(nodes.reference)):
        uri = node.get("refuri", "")
        if uri in extra:
            node["refuri"] = extra[uri]
        elif match := _PAGE.fullmatch(uri):
            if match["page"] not in app.env.found_docs:
                logger.warning("there is no page %s", uri, location=node)
                continue
            page = app.builder.get_relative_uri(docname, match["page"])
            node["refuri"] = page + (match["rest"] or "")
            node["internal"] = True


def _link_names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    documented = _documented(app.env)
    for node in list(doctree.findall(nodes.literal)):
        text = node.astext()
        if text not in documented or isinstance(node.parent, nodes.reference | nodes.title):
            continue
        if (one := _the_one(documented[text])) is None:
            continue
        name, entry = one
        if entry.docname == docname:  # there, links are made by roles
            continue
        node["classes"] += ["xref", "py"]
        link = make_refnode(
            app.builder, docname, entry.docname, entry.node_id, node.deepcopy(), name
        )
        node.parent.replace(node, link)


def _resolve(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    _link_pages(app, doctree, docname)
    _link_names(app, doctree, docname)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-resolved", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
