"""The names that the package exports, and those of its public modules.

References to a class by the private module that it is written in lead to its public name, and
``.. remaining-names::`` documents what the page that it is on does not name.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from _rst import parse
from docutils import nodes  # type: ignore[import-untyped]
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

import trio_tlsbio
import trio_tlsbio.core
import trio_tlsbio.monitoring
import trio_tlsbio.proxy_protocol
import trio_tlsbio.testing
import trio_tlsbio.ticket_keys

_MODULES = (
    trio_tlsbio,
    trio_tlsbio.core,
    trio_tlsbio.monitoring,
    trio_tlsbio.proxy_protocol,
    trio_tlsbio.testing,
    trio_tlsbio.ticket_keys,
)


def _resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, contnode: nodes.TextElement
) -> nodes.Node | None:
    target = str(node.get("reftarget", ""))
    if not target.startswith("trio_tlsbio._"):
        return None
    name = target.rpartition(".")[2]
    for module in _MODULES:
        if name in module.__all__:
            return env.domains.python_domain.resolve_xref(
                env,
                str(node["refdoc"]),
                app.builder,
                "obj",
                f"{module.__name__}.{name}",
                node,
                contnode,
            )
    return None


class RemainingNames(SphinxDirective):
    """Document the rest by its docstrings, so that no public name is missing."""

    def run(self) -> list[nodes.Node]:
        text = Path(self.env.doc2path(self.env.docname)).read_text(encoding="utf-8")
        named = re.findall(
            r"^\.\. (?:auto)?(?:class|function|exception|data):: (\w+)", text, re.MULTILINE
        )
        lines: list[str] = []
        for name in trio_tlsbio.__all__:
            if name in named:
                continue
            value = getattr(trio_tlsbio, name)
            if not inspect.isclass(value):
                kind = "autofunction" if callable(value) else "autodata"
            else:
                kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
            lines += [f".. {kind}:: {name}", *(["   :members:"] * inspect.isclass(value)), ""]
        return parse(self, lines)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("remaining-names", RemainingNames)
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
