"""The pages as Sphinx builds them: names, links, diagrams, and what the extensions make."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import trio_tlsbio
import trio_tlsbio.testing
from tests.docblocks import BLOCKS
from tests.helpers import DOCS, ROOT

FIGURES = [
    "fleet.svg",
    *(f"performance-{name}.svg" for name in ("bulk", "handshakes", "messages")),
]


def extension(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import one of docs/_ext, as Sphinx does."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return importlib.import_module(name)


def test_docs_build(site: Path) -> None:
    assert "<svg" in (site / "states.html").read_text(encoding="utf-8")
    api = (site / "api.html").read_text(encoding="utf-8")
    for module in (
        trio_tlsbio,
        trio_tlsbio.core,
        trio_tlsbio.monitoring,
        trio_tlsbio.testing,
        trio_tlsbio.ticket_keys,
    ):
        for name in module.__all__:
            assert f'id="{module.__name__}.{name}"' in api


def test_diagrams_show_every_transition(monkeypatch: pytest.MonkeyPatch) -> None:
    states = extension("states", monkeypatch)
    for side, table in states.TRANSITIONS.items():
        svg = states.diagram(side)
        assert svg.count("<path") == len(table) + 1  # the arrow's head
        for (source, event), target in table.items():
            for word in (source.name, event.value, target.name):
                assert f">{word}</text>" in svg


def test_the_fleet_is_drawn_from_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    diagrams = extension("diagrams", monkeypatch)
    assert diagrams.fleet_hosts() == ["host1", "host2", "host3"]
    svg = diagrams.fleet()
    for host in diagrams.fleet_hosts():
        assert f">{host}: workers</text>" in svg


def test_every_message_has_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (_, _, messages, cures) in extension("errors", monkeypatch).tables().items():
        assert messages.keys() == cures.keys(), name


def strings_in_the_code() -> set[str]:
    """Return every string in the package, with ``…`` where something is filled in."""

    def text_of(node: ast.expr) -> str:
        match node:
            case ast.Constant(value=str(text)):
                return text.replace("%s", "…")  # in a log
            case ast.JoinedStr(values=values):
                return "".join(map(text_of, values))
            case ast.FormattedValue(
                value=ast.Call(func=ast.Name(id="count"), args=[_, ast.Constant(value=str(unit))])
            ):
                return f"… {unit}s"
            case _:
                return "…"

    return {
        text_of(node)
        for path in Path(trio_tlsbio.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant | ast.JoinedStr)
    }


def test_errors_page_quotes_messages_of_the_code() -> None:
    text = (DOCS / "errors.rst").read_text(encoding="utf-8")
    quoted = re.findall(r"^``(.+)``\n    \S", text, re.MULTILINE)
    assert len(quoted) > 20
    assert set(quoted) - strings_in_the_code() == set()


def test_changelog(monkeypatch: pytest.MonkeyPatch) -> None:
    changelog: Any = extension("changelog", monkeypatch)
    markdown = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert markdown.count("\n## [Unreleased]\n") == 1
    lines = changelog.to_rst(markdown)
    assert lines[lines.index("Unreleased") + 1] == "-" * len("Unreleased")
    assert not any(line.startswith("#") for line in lines)


class Page(HTMLParser):
    """What a built page has: code, names to link to, and links."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.blocks = 0
        self.names: set[str] = set()
        self.links: list[str] = []
        self._lists: list[bool] = []  # the definition lists that are open: is it of autodoc's?
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "dl":
            self._lists.append(values.get("class", "").startswith("py "))
        if not any(self._lists):  # docstrings are looked at for themselves
            self.blocks += "highlight-" in values.get("class", "")
        self.names |= {values[name] for name in ("id", "name") if values.get(name)}
        self.links += [values[name] for name in ("href", "src") if values.get(name)]

    def handle_endtag(self, tag: str) -> None:
        if tag == "dl":
            self._lists.pop()


def test_every_block_is_found(site: Path) -> None:
    """Sphinx shows as many blocks on each page as are found here."""
    for path in DOCS.glob("*.rst"):
        if path.stem != "changelog":  # which is made of Markdown
            blocks = [block for block in BLOCKS if block.page == path.name]
            assert Page(site / f"{path.stem}.html").blocks == len(blocks), path.name


def dead_links(site: Path) -> list[str]:
    """Return the links into the site itself that lead nowhere."""
    pages = {path.resolve(): Page(path) for path in site.glob("**/*.html")}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            fragment = urllib.parse.unquote(url.fragment)
            if not target.exists() or (
                fragment and target in pages and fragment not in pages[target].names
            ):
                dead.append(f"{path.name}: {link}")
    return dead


def test_no_link_is_dead(site: Path) -> None:
    assert len(Page(site / "howto.html").links) > 50
    assert not dead_links(site)


def test_a_dead_link_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here"><a href="#gone"><a href="b.html#x"><a href="c.html">'
        '<a href="https://elsewhere.example/#y"><img src="d.svg">'
    )
    (tmp_path / "b.html").write_text('<p id="other">')
    links = ["#gone", "b.html#x", "c.html", "d.svg"]
    assert dead_links(tmp_path) == [f"a.html: {link}" for link in links]


def test_names_are_links(site: Path) -> None:
    """Pages have plain literals, and the names among them lead to the reference."""
    page = (site / "howto.html").read_text(encoding="utf-8")
    page += (site / "servers.html").read_text(encoding="utf-8")
    for name in ("TLSStream", "Drain.end", "serve_tls_over_tcp"):
        assert f'href="api.html#trio_tlsbio.{name}"' in page


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_up_to_date(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ``python docs/figures.py`` after changing what they are drawn from."""
    monkeypatch.syspath_prepend(str(DOCS))
    figures = extension("figures", monkeypatch)
    assert set(figures.PICTURES) == set(FIGURES)
    assert (DOCS / "images" / name).read_text(encoding="utf-8") == figures.PICTURES[name]()


@pytest.fixture
def diagrams(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The extension that draws them."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return importlib.import_module("diagrams")


def test_the_stairs_are_the_contracts(site: Path, diagrams: Any) -> None:
    root = Path(trio_tlsbio.__file__).parents[1]
    page = (site / "design.html").read_text(encoding="utf-8")
    assert len(diagrams.stairs()) == 6
    for container, floors in diagrams.stairs().items():
        rooms = [room for floor in floors for room in floor]
        package = root.joinpath(*container.split("."))
        there = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
        assert set(rooms) == there - {"__init__", "__pycache__"}
        for room in rooms:
            assert f">{room}</text>" in page
            assert diagrams.purpose(container, room), room


def test_the_flow_names_what_there_is(site: Path, diagrams: Any) -> None:
    page = (site / "design.html").read_text(encoding="utf-8")
    for stages in diagrams.FLOW.values():
        for name, _ in stages:
            assert f">{name}</text>" in page
            owner, _, member = name.removesuffix("()").partition(".")
            known = getattr(trio_tlsbio, owner)
            assert hasattr(known, member) or member in inspect.get_annotations(known)
