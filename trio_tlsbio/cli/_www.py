"""``serve --www``: any HTTP request is answered with one page about the connection.

The request is not interpreted, except for the end of its head, and whether it accepts HTML. Data
after the head is discarded, so it can't contain a second request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from html import escape
from http import HTTPStatus
from typing import Any, TypeAlias

import attrs
import trio

from trio_tlsbio import Drain, HandshakeInfo, TLSStream
from trio_tlsbio._core.errors import printable

from ._facts import Agreement
from ._words import agreement_facts, aligned, certificate_facts

__all__ = ["Www"]

# The maximum size of a request's head, in bytes.
_MOST_HEAD = 16 * 1024

# An empty line ends the head. RFC 9112 section 2.2 allows lines that end without CR.
_HEAD_END = re.compile(rb"\n\r?\n")
_MOST_HEAD_END = 3

_WANTS_HTML = re.compile(rb"^accept:[^\n]*\btext/html\b", re.IGNORECASE | re.MULTILINE)

# No scripts, images or other pages: only the page's own style is allowed.
_HEADERS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Connection", "close"),
)

Facts: TypeAlias = Sequence[tuple[str, str]]


################################################################
# The page
################################################################

_STYLE = """\
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { max-width: 46rem; margin: 3rem auto; padding: 0 1.25rem; }
h1 { font-weight: 600; font-size: 1.75rem; margin: 0; }
h2 { font-weight: 600; font-size: 1rem; margin: 2.5rem 0 .25rem; opacity: .7; }
dl { display: grid; grid-template-columns: minmax(8rem, auto) 1fr; margin: 0; }
dt, dd { margin: 0; padding: .5rem 1rem .5rem 0; border-top: 1px solid #8884; }
dt { opacity: .7; }
dd { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }"""


def _headline(info: HandshakeInfo) -> str:
    how = "post-quantum" if info.is_post_quantum else "not post-quantum"
    return f"{info.version}, {'resumed' if info.session_reused else 'a new session'}, {how}"


def _sections(agreement: Agreement) -> list[tuple[str, Facts]]:
    certificate = list(certificate_facts(agreement))
    if not agreement.is_verified:
        certificate = [("certificate", "not asked for")]
    return [
        ("The handshake agreed on", agreement_facts(agreement.info)),
        ("Your certificate", certificate),
    ]


def text_page(agreement: Agreement) -> str:
    """Return the page for terminals."""
    lines = [_headline(agreement.info)]
    for title, facts in _sections(agreement):
        lines += ["", title, "", *aligned(facts)]
    return "".join(printable(line) + "\n" for line in lines)


def html_page(agreement: Agreement) -> str:
    """Return the page for browsers."""

    def text(words: str) -> str:  # a client's certificate can contain any text
        return escape(printable(words))

    def table(facts: Facts) -> Iterable[str]:
        return (f"<dt>{text(label)}</dt><dd>{text(value)}</dd>" for label, value in facts)

    headline = text(_headline(agreement.info))
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{headline}</title>",
        f"<style>\n{_STYLE}\n</style>",
        f"<h1>{headline}</h1>",
    ]
    for title, facts in _sections(agreement):
        lines += [f"<h2>{text(title)}</h2>", "<dl>", *table(facts), "</dl>"]
    return "".join(line + "\n" for line in lines)


################################################################
# The conversation
################################################################


def _response(status: HTTPStatus, kind: str, text: str) -> bytes:
    body = text.encode(errors="backslashreplace")
    headers = [
        ("Date", formatdate(usegmt=True)),
        ("Content-Type", f"{kind}; charset=utf-8"),
        ("Content-Length", f"{len(body)}"),
        *_HEADERS,
    ]
    head = [f"HTTP/1.1 {status} {status.phrase}", *(f"{name}: {value}" for name, value in headers)]
    return "".join(line + "\r\n" for line in [*head, ""]).encode("ascii") + body


@attrs.frozen
class Www:
    """Answers one request on each connection, and ends it.

    Args:
      drain: Ends connections on which no request has begun.
      head_timeout: How long a client may take to send the head of its request, in seconds.
      send_timeout: How long a client may take to read the answer, in seconds.
    """

    drain: Drain = attrs.field(factory=Drain)
    head_timeout: float = 30.0
    send_timeout: float = 60.0

    async def serve(self, stream: TLSStream[Any]) -> None:
        """Serve a connection, up to our close_notify.

        A client that doesn't send a complete request in time gets no answer.

        Raises:
          trio.TooSlowError: if the client doesn't read the answer in time.
          TLSError: if the connection broke.
        """
        head = await self._receive_head(stream)
        # If this is cut off, the client can see that data is missing.
        with trio.fail_after(self.send_timeout):
            if head is not None:
                await stream.send_all(_answer(stream, head))
            await stream.send_eof()

    async def _receive_head(self, stream: TLSStream[Any]) -> bytes | None:
        """Receive until a head ends or is too long. Return None if neither happens in time."""
        head = b""
        with trio.move_on_after(self.head_timeout):
            while data := await (
                stream.receive_some(_MOST_HEAD)
                if head
                else self.drain.receive_some(stream, _MOST_HEAD)
            ):
                begin = max(len(head) - _MOST_HEAD_END, 0)
                head += data
                if len(head) > _MOST_HEAD or _HEAD_END.search(head, begin):
                    return head
        return None


def _answer(stream: TLSStream[Any], head: bytes) -> bytes:
    end = _HEAD_END.search(head, 0, _MOST_HEAD)
    if end is None:
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        return _response(status, "text/plain", f"{status} {status.phrase}\n")
    agreement = Agreement.of(stream)
    if _WANTS_HTML.search(head, 0, end.end()):
        return _response(HTTPStatus.OK, "text/html", html_page(agreement))
    return _response(HTTPStatus.OK, "text/plain", text_page(agreement))
