"""The pages as a host of code shows them: rendered by plain docutils, which knows no Sphinx."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trio_tlsbio
import trio_tlsbio.monitoring
import trio_tlsbio.proxy_protocol
import trio_tlsbio.testing
import trio_tlsbio.ticket_keys
from tests import tables
from tests.docblocks import BLOCKS
from tests.helpers import DOCS

# These are made by Sphinx: of docstrings, of other files, or of what the code says of itself.
MADE_BY_SPHINX = {"api.rst", "changelog.rst", "design.rst", "errors.rst", "index.rst", "states.rst"}

PAGES = sorted(path.name for path in DOCS.glob("*.rst"))
READABLE = [name for name in PAGES if name not in MADE_BY_SPHINX]

# In a process of its own: Sphinx, once imported, has added to what docutils knows. A host of code
# does not read files that a page names. Unlike here, it drops what it doesn't understand silently.
RENDER = """
import contextlib, io, json, sys
from docutils import nodes
from docutils.core import publish_doctree

settings = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "report_level": 2,
    "halt_level": 5,
    "syntax_highlight": "none",
}
pages = {}
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with contextlib.redirect_stderr(io.StringIO()) as messages:
        tree = publish_doctree(text, path, settings_overrides=settings)
    pages[path] = {
        "messages": messages.getvalue(),
        "ids": [name for node in tree.findall(nodes.Element) for name in node["ids"]],
        "links": [
            node.get("refuri") or "#" + node.get("refid", "")
            for node in tree.findall(nodes.reference)
        ],
        "images": [node["uri"] for node in tree.findall(nodes.image)],
        "code": [node.astext() for node in tree.findall(nodes.literal_block)],
        "literals": [node.astext() for node in tree.findall(nodes.literal)],
        "titles": [node.astext() for node in tree.findall(nodes.title_reference)],
    }
json.dump(pages, sys.stdout)
"""


@pytest.fixture(scope="module")
def rendered() -> dict[str, Any]:
    """What plain docutils makes of each page."""
    pytest.importorskip("docutils", reason="docutils is not installed")
    command = [sys.executable, "-c", RENDER, *(str(DOCS / name) for name in PAGES)]
    done = subprocess.run(command, capture_output=True, check=True)
    return {Path(path).name: page for path, page in json.loads(done.stdout).items()}


@pytest.mark.parametrize("name", READABLE)
def test_nothing_is_unknown(rendered: dict[str, Any], name: str) -> None:
    """No "Unknown directive", and no "Unknown interpreted text role"."""
    assert rendered[name]["messages"] == ""


def test_it_would_be_noticed(rendered: dict[str, Any]) -> None:
    assert 'Unknown directive type "autofunction"' in rendered["api.rst"]["messages"]
    assert 'Unknown interpreted text role "class"' in rendered["api.rst"]["messages"]


@pytest.mark.parametrize("name", READABLE)
def test_code_is_shown(rendered: dict[str, Any], name: str) -> None:
    shown = [text.rstrip("\n") for text in rendered[name]["code"]]
    assert shown == [block.text.rstrip("\n") for block in BLOCKS if block.page == name]


@pytest.mark.parametrize("name", READABLE)
def test_literals_are_literals(rendered: dict[str, Any], name: str) -> None:
    """Without ``.. default-role:: literal`` they would be in italics."""
    assert rendered[name]["titles"] == []


def test_links_lead_somewhere(rendered: dict[str, Any]) -> None:
    count = 0
    for name in READABLE:
        for image in rendered[name]["images"]:
            assert (DOCS / image).exists(), f"{name}: {image}"
        for link in rendered[name]["links"]:
            if re.match(r"https?://", link):
                continue
            path, _, fragment = link.partition("#")
            target = path or name
            assert (DOCS / target).exists(), f"{name}: {link}"
            if fragment and target in READABLE:
                assert fragment in rendered[target]["ids"], f"{name}: {link}"
            count += 1
    assert count > 150


def test_names_exist(rendered: dict[str, Any]) -> None:
    """A literal such as ``TLSStream.aclose()`` names what there is; on the site it is a link."""
    modules = (
        trio_tlsbio,
        trio_tlsbio.monitoring,
        trio_tlsbio.proxy_protocol,
        trio_tlsbio.testing,
        trio_tlsbio.ticket_keys,
    )
    classes = {
        name: getattr(module, name)
        for module in modules
        for name in module.__all__
        if isinstance(getattr(module, name), type)
    }
    count = 0
    for page in READABLE:
        for text in rendered[page]["literals"]:
            owner, _, member = text.removesuffix("()").partition(".")
            if owner in classes and member.isidentifier():
                assert hasattr(classes[owner], member), f"{page}: {text}"
                count += 1
    assert count > 50


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_as_in_their_files(name: str) -> None:
    """Run ``python -m tests.tables`` after changing one."""
    text = (DOCS / name).read_text(encoding="utf-8")
    assert text == tables.filled_in(text)


def test_all_tables_are_shown() -> None:
    text = "".join((DOCS / name).read_text(encoding="utf-8") for name in PAGES)
    for path in tables.DIRECTORY.iterdir():
        assert f"\n.. tables/{path.name}\n.. csv-table::" in text


def test_the_first_page_says_what_each_page_is_for() -> None:
    text = (DOCS / "index.rst").read_text(encoding="utf-8")
    for name in PAGES:
        if name != "index.rst":
            assert re.search(rf"^\* `[^`]+ <{name}>`__: \w", text, re.MULTILINE), name
