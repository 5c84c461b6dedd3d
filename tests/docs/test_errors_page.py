"""docs/errors.rst lists every message that the library can raise or log."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

import trio_tlsbio
from tests.helpers import DOCS
from trio_tlsbio._core import errors

PAGE = DOCS / "errors.rst"

# What makes an exception with a message that is its first argument, and what logs one.
EXCEPTIONS = {
    "BrokenResourceError",
    "BusyResourceError",
    "CertificateError",
    "ClosedResourceError",
    "HandshakeTimeoutError",
    "ImportError",
    "ModuleNotFoundError",
    "NeedHandshakeError",
    "NotImplementedError",
    "PeerAlertError",
    "PostHandshakeAuthError",
    "RuntimeError",
    "TLSError",
    "TruncationError",
    "TypeError",
    "ValueError",
}
MAKERS = EXCEPTIONS | {"ConflictDetector", "truncated", "_end_truncated"}
# What is raised without a message of ours, or with one that is found elsewhere.
NOT_SAID = {"AssertionError", "OSError", "RefuseHandshake", "again", "claim", "error", "min"}
LOGS = {"_logger.warning", "_logger.error"}

# Where an adapter makes an exception of another library, by its name.
FOREIGN = "getattr(library, "

# What takes a message from somewhere else in the package, where it is found too, or from the
# exception that is the cause.
ELSEWHERE = {
    "_REASONS[reason]",
    "REASONS[reason]",
    "self._message",
    "*exc.args",
    "str(exc)",
    "str(self)",
    "str(exc) or type(exc).__name__",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _part(value: ast.expr) -> str:
    """Return a part of an f-string, as the page shows it."""
    match value:
        case ast.Constant(value=str(text)):
            return text
        case ast.FormattedValue(
            value=ast.Call(func=ast.Name(id="count"), args=[_, ast.Constant(value=str(unit))])
        ):
            return f"… {unit}s"
    return "…"


@attrs.frozen
class Source:
    """A module's code, read for its messages. What is filled in there is ``…`` here."""

    name: str
    tree: ast.Module

    @classmethod
    def of(cls, name: str, code: str) -> Source:
        """Parse it, and let each node know what it is in."""
        tree = ast.parse(code)
        for node in ast.walk(tree):
            for child in ast.iter_child_nodes(node):
                child.parent = node  # type: ignore[attr-defined]
        return cls(name, tree)

    def messages(self) -> Iterator[str]:
        """Yield the messages; raise if there is an exception whose message can't be found."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                self._check_kind(node.exc)
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in LOGS:
                yield next(iter(self._texts(node.args[0], node))).replace("%s", "…")
            elif called == "anyio.BusyResourceError":
                continue  # which makes its message itself
            elif (called.rpartition(".")[2] in MAKERS or called.startswith(FOREIGN)) and node.args:
                yield from self._texts(node.args[0], node)

    def _check_kind(self, call: ast.Call) -> None:
        name = ast.unparse(call.func).rpartition(".")[2]
        if name.startswith(FOREIGN):
            return
        # Functions that make one by one of these are looked through like all others.
        local = {each.name for each in ast.walk(self.tree) if isinstance(each, Function)}
        # An OSError has the system's words.
        known = EXCEPTIONS | local | NOT_SAID
        # Of other modules, where their messages are.
        known |= {"closed_error", "max_bytes_error", "missing_extra", "stream_error", "truncated"}
        assert name in known, f"{self.name}:{call.lineno} raises {name}, which is not known here"

    def _texts(self, node: ast.expr, within: ast.AST) -> list[str]:
        function = self._function_of(within)
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=values):
                return ["".join(map(_part, values))]
            case ast.Name(id=name) if function is not None:
                return self._assigned(name, function)
            case ast.IfExp(body=body, orelse=other):
                return self._texts(body, within) + self._texts(other, within)
            case ast.Call(func=ast.Name(id=name)) if ast.unparse(node) not in ELSEWHERE:
                return [
                    text
                    for each in ast.walk(self.tree)
                    if isinstance(each, Function) and each.name == name
                    for end in ast.walk(each)
                    if isinstance(end, ast.Return) and end.value is not None
                    for text in self._texts(end.value, end)
                ]
        assert ast.unparse(node) in ELSEWHERE, f"{self.name}:{node.lineno}: {ast.unparse(node)}"
        return []

    def _assigned(self, name: str, function: Function) -> list[str]:
        arguments = [*function.args.args, *function.args.kwonlyargs]
        if any(argument.arg == name for argument in arguments):
            return []  # found where it is called
        found = [
            text
            for each in ast.walk(function)
            if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == name
            for text in self._texts(each.value, each)
        ]
        assert found, f"{self.name}:{function.lineno}: nothing is assigned to {name}"
        return found

    @staticmethod
    def _function_of(node: ast.AST | None) -> Function | None:
        while node is not None and not isinstance(node, Function):
            node = getattr(node, "parent", None)
        return node


def sources() -> list[Source]:
    """Read the package, but not its command line."""
    package = Path(trio_tlsbio.__file__).parent
    return [
        Source.of("/".join(path.relative_to(package).parts), path.read_text(encoding="utf-8"))
        for path in sorted(package.rglob("*.py"))
        if "cli" not in path.parts
    ]


def quoted() -> list[str]:
    """Return the messages that the page has as entries."""
    return re.findall(r"^``(.+)``\n    \S", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("source", sources(), ids=lambda source: str(source.name))
def test_every_message_is_on_the_page(source: Source) -> None:
    missing = set(source.messages()) - set(quoted())
    assert not missing, f"docs/errors.rst does not tell of: {missing}"


def test_the_messages_are_found() -> None:
    messages = {message for source in sources() for message in source.messages()}
    assert len(messages) > 60
    assert {
        "the certificate is for …, not …",  # what a function returns
        "the client sends data where it should answer with a certificate",  # a variable
        "the peer closed the connection during the handshake",  # an argument of a helper
        "another task is currently sending data on this TLSStream: let one task send at a time",
        "connection from …: …",  # in the log
    } <= messages
    assert messages >= {message for message in quoted() if "…" not in message}


def test_a_new_message_would_be_found() -> None:
    code = (
        "def f(x):\n    if x:\n        raise ValueError(f'{x} is new')\n    raise KeyError('new')\n"
    )
    with pytest.raises(AssertionError, match="raises KeyError"):
        list(Source.of("new.py", code).messages())
    assert "… is new" in Source.of("new.py", code.replace("KeyError", "TypeError")).messages()
    with pytest.raises(AssertionError, match="f\\(\\) \\+ 1"):
        list(Source.of("new.py", "raise ValueError(f() + 1)").messages())


def test_no_message_is_told_twice() -> None:
    entries = quoted()
    assert len(entries) == len(set(entries))


def test_the_tables_begin_with_what_is_quoted() -> None:
    # What the tables of docs/_ext/errors.py fill in.
    assert "the peer's certificate was refused: …" in quoted()
    assert "the peer ended the connection: … (alert …)" in quoted()
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"error-table:: (\w+)", text) == ["certificates", "alerts", "reasons"]


def test_the_page_says_where_its_tables_come_from() -> None:
    """A code host shows the page without them."""
    text = PAGE.read_text(encoding="utf-8")
    for name in (
        "trio_tlsbio/_core/certificate_words.py",
        "trio_tlsbio/_core/words.py",
        "docs/_ext/errors.py",
    ):
        assert f"`{name}`" in text
        assert (DOCS.parent / name).exists()


def test_the_tree_of_exceptions() -> None:
    text = PAGE.read_text(encoding="utf-8")
    tree = text.partition("    trio.BrokenResourceError\n")[2].partition("\n\n")[0]
    names = re.findall(r"[└├]── (\w+)", tree)
    classes = [getattr(trio_tlsbio, name) for name in names]
    assert classes[0] is trio_tlsbio.TLSError
    assert classes == [getattr(trio_tlsbio, name) for name in sorted(names, key=names.index)]
    assert all(issubclass(each, trio_tlsbio.TLSError) for each in classes)
    known = {
        name
        for name in errors.__all__
        if isinstance(each := getattr(errors, name), type)
        and issubclass(each, trio_tlsbio.TLSError)
    }
    assert set(names) == known
