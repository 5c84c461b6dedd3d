"""Files over HTTP/1.1, for the command ``serve``. h11 speaks the protocol."""

from __future__ import annotations

import errno
import html
import io
import mimetypes
import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate, parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, unquote_to_bytes

import attrs
import h11
import trio

from trio_tlsbio import Drain

__all__ = ["Site", "UnfinishedError"]

# How much of a file is read, and sent, at a time, in bytes.
_CHUNK_BYTES = 128 * 1024

# How long the head of a request may be, in bytes.
_HEAD_BYTES = 16 * 1024

# What the system says where a path leads to nothing that may be seen.
_NOT_THERE = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL),
}

_Headers: TypeAlias = Sequence[tuple[str, str]]


class UnfinishedError(Exception):
    """An answer that could not be sent whole. The connection must break, for the client to see."""


################################################################
# Answers
################################################################


@attrs.frozen
class Answer:
    """An answer, without the headers that depend on the connection."""

    status: HTTPStatus
    headers: _Headers
    body: bytes | Part = b""

    @property
    def length(self) -> int:
        """How long its body is, in bytes."""
        return len(self.body if isinstance(self.body, bytes) else self.body.span)

    def close(self) -> None:
        """Close its file, if it has one."""
        if isinstance(self.body, Part):
            self.body.file.close()


@attrs.frozen
class Part:
    """Some of a file that is open."""

    file: io.FileIO
    span: range


def _note(status: HTTPStatus, *headers: tuple[str, str]) -> Answer:
    """Answer with no more than what the status means."""
    text = f"{status} {status.phrase}\n".encode()
    return Answer(status, [("Content-Type", "text/plain; charset=utf-8"), *headers], text)


def _redirect(names: Sequence[str], query: bytes) -> Answer:
    location = _url(names) + query.decode("ascii")
    return _note(HTTPStatus.MOVED_PERMANENTLY, ("Location", location))


def _listing(folder: Path, names: Sequence[str]) -> Answer:
    with os.scandir(folder) as entries:
        here = sorted(entry.name + "/" * entry.is_dir() for entry in entries)
    title = html.escape(f"/{''.join(name + '/' for name in names)}")
    # Without the dot, a name with a colon would be taken for a URL with a scheme.
    links = [f'<li><a href="./{_quoted(name)}">{html.escape(name)}</a></li>' for name in here]
    page = [
        "<!DOCTYPE html>",
        '<html><head><meta charset="utf-8">',
        f"<title>{title}</title></head><body>",
        f"<h1>{title}</h1>",
        "<ul>",
        *(['<li><a href="../">../</a></li>'] if names else []),
        *links,
        "</ul></body></html>",
    ]
    text = "".join(line + "\n" for line in page).encode(errors="replace")
    return Answer(HTTPStatus.OK, [("Content-Type", "text/html; charset=utf-8")], text)


def _url(names: Sequence[str]) -> str:
    # It begins with one slash only: two would lead to another host.
    return "/" + "".join(_quoted(name) + "/" for name in names)


def _quoted(name: str) -> str:
    return quote(os.fsencode(name))


def _content_type(path: Path) -> str:
    # The whole path, which no scheme begins: mimetypes takes what it gets for a URL.
    kind, encoding = mimetypes.guess_type(path.as_posix())
    # A compressed file is served as what it is: Content-Encoding would have it unpacked.
    return kind if kind is not None and encoding is None else "application/octet-stream"


def _file_answer(file: io.FileIO, kind: str, method: str, asked: Mapping[str, str]) -> Answer:
    """Answer with a file, or a part of it, or that it has not changed: RFC 9110, 13 and 14."""
    facts = os.fstat(file.fileno())
    etag = f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'
    modified = min(facts.st_mtime, time.time())
    headers = [("ETag", etag), ("Last-Modified", formatdate(modified, usegmt=True))]
    if _is_unchanged(asked, etag, modified):
        return Answer(HTTPStatus.NOT_MODIFIED, headers)
    headers += [("Content-Type", kind), ("Accept-Ranges", "bytes")]
    span = _asked_span(asked, etag, facts.st_size) if method == "GET" else None
    if span is None:
        return Answer(HTTPStatus.OK, headers, Part(file, range(facts.st_size)))
    if not span:
        size = ("Content-Range", f"bytes */{facts.st_size}")
        return _note(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, size)
    where = f"bytes {span.start}-{span.stop - 1}/{facts.st_size}"
    headers.append(("Content-Range", where))
    return Answer(HTTPStatus.PARTIAL_CONTENT, headers, Part(file, span))


def _is_unchanged(asked: Mapping[str, str], etag: str, modified: float) -> bool:
    """Tell whether the client has what it asks for already."""
    if (tags := asked.get("if-none-match")) is not None:  # which then counts alone
        return any(tag.strip().removeprefix("W/") in ("*", etag) for tag in tags.split(","))
    if (since := asked.get("if-modified-since")) is not None:
        with suppress(ValueError, OverflowError):  # it is no date: as if it were not there
            return int(modified) <= parsedate_to_datetime(since).timestamp()
    return False


def _asked_span(asked: Mapping[str, str], etag: str, size: int) -> range | None:
    """Return the one range that is asked for, empty if it begins past the end; None for all."""
    match = re.fullmatch(
        r"bytes=(\d{0,18})-(\d{0,18})", asked.get("range", ""), re.ASCII | re.IGNORECASE
    )
    # Without the same ETag, the client holds parts of another state of the file.
    if match is None or asked.get("if-range", etag) != etag:
        return None
    first, last = (int(number) if number else None for number in match.groups())
    if first is not None:
        if last is not None and last < first:
            return None
        return range(first, size if last is None else min(last + 1, size))
    return None if last is None else range(max(size - last, 0), size)


################################################################
# What is asked for, and where it is
################################################################

# RFC 9112 section 3.2: a path, or a whole URL as proxies get it.
_TARGET = re.compile(r"(?:https?://[^/?#]+)?(/[^?#]*)?(\?[^#]*)?", re.IGNORECASE)


def _path_of(target: str) -> tuple[str, bytes] | None:
    """Return the path and the query of a target; None if it is no such thing."""
    if (match := _TARGET.fullmatch(target)) is None:
        return None
    return match[1] or "/", (match[2] or "").encode("ascii")


def _names_in(path: str) -> list[str] | None:
    """Return the names that a path consists of; None if one of them can't be that of a file."""
    names: list[str] = []
    for part in path.split("/"):
        name = os.fsdecode(unquote_to_bytes(part))
        if name == ".." or any(c in name for c in ("\0", os.sep, os.altsep) if c is not None):
            return None
        if name not in ("", "."):
            names.append(name)
    return names


@attrs.frozen
class Site:
    """The files in a directory, for those who ask by GET and HEAD.

    Args:
      directory: Where they are. Nothing outside of it is served, wherever links lead.
      drain: Ends connections on which no request is being answered.
      idle_timeout: How long a connection may be idle, in seconds.
      head_timeout: How long the head of a request may take from its first byte, in seconds.
      send_timeout: How long the client may take for a chunk of the answer, in seconds.
    """

    directory: Path
    drain: Drain = attrs.field(factory=Drain)
    idle_timeout: float = 60.0
    head_timeout: float = 10.0
    send_timeout: float = 60.0

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Answer the requests of one connection, to its end.

        Raises:
          UnfinishedError: if an answer could not be sent whole.
          OSError: if a file could not be read any further.
          trio.BrokenResourceError: if the connection broke.
        """
        await _Conversation(self, stream).run()

    def answer(self, method: str, target: str, asked: Mapping[str, str]) -> Answer:
        """Find the answer to a request, whose headers are ``asked``. Blocks, so is for a thread."""
        if method not in ("GET", "HEAD"):
            return _note(HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", "GET, HEAD"))
        try:
            return self._look_up(method, target, asked)
        except UnicodeError:  # a name that this file system can't have
            return _note(HTTPStatus.NOT_FOUND)
        except OSError as exc:
            is_absent = exc.errno in _NOT_THERE
            return _note(HTTPStatus.NOT_FOUND if is_absent else HTTPStatus.INTERNAL_SERVER_ERROR)

    def _look_up(self, method: str, target: str, asked: Mapping[str, str]) -> Answer:
        if (found := _path_of(target)) is None:
            return _note(HTTPStatus.BAD_REQUEST)
        url, query = found
        if (names := _names_in(url)) is None:
            return _note(HTTPStatus.NOT_FOUND)
        path = self._inside(names)
        is_folder = stat.S_ISDIR(path.stat().st_mode)
        if is_folder and not url.endswith("/"):
            return _redirect(names, query)
        if is_folder:
            folder, path = path, self._inside([*names, "index.html"])
            if not path.exists():
                return _listing(folder, names)
        # A pipe, for one, might never give anything.
        if not stat.S_ISREG(path.stat().st_mode) or (url.endswith("/") and not is_folder):
            return _note(HTTPStatus.NOT_FOUND)
        file = io.FileIO(path)
        try:
            answer = _file_answer(file, _content_type(path), method, asked)
        except BaseException:
            file.close()
            raise
        if not isinstance(answer.body, Part):
            file.close()
        return answer

    def _inside(self, names: Sequence[str]) -> Path:
        """Return where a path really is, which must be inside."""
        # Each time: what the directory's own path leads to may be exchanged.
        directory = os.path.realpath(self.directory)
        path = Path(os.path.realpath(Path(directory, *names)))
        if not path.is_relative_to(directory):
            raise FileNotFoundError(errno.ENOENT, "it leads out of the directory")
        return path


################################################################
# A connection
################################################################


@attrs.define(eq=False)
class _Conversation:
    """One connection: requests and their answers, one after the other."""

    _site: Site
    _stream: trio.abc.HalfCloseableStream
    _http: h11.Connection = attrs.field(
        factory=partial(h11.Connection, h11.SERVER, max_incomplete_event_size=_HEAD_BYTES),
        init=False,
    )

    async def run(self) -> None:
        try:
            while (request := await self._next_request()) is not None:
                await self._respond(request)
                if self._http.our_state is not h11.DONE:
                    break
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as exc:
            await self._send(_note(HTTPStatus(exc.error_status_hint)), close=True)
        # All that was answered is out. A client that has gone already does not miss this.
        with trio.move_on_after(self._site.send_timeout), suppress(trio.BrokenResourceError):
            await self._stream.send_eof()

    async def _next_request(self) -> h11.Request | None:
        """Wait for the head of a request; None if there is none to come, or not in time."""
        if not self._http.trailing_data[0]:
            data: bytes | bytearray = b""
            with trio.move_on_after(self._site.idle_timeout):
                data = await self._site.drain.receive_some(self._stream, _HEAD_BYTES)
            self._http.receive_data(bytes(data))
        with trio.move_on_after(self._site.head_timeout):
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(bytes(await self._stream.receive_some(_HEAD_BYTES)))
            return event if isinstance(event, h11.Request) else None
        return None

    async def _respond(self, request: h11.Request) -> None:
        # A body is not read, nor judged: no answer depends on it, and the connection ends after it.
        has_body = True
        with suppress(h11.RemoteProtocolError):
            has_body = not isinstance(self._http.next_event(), h11.EndOfMessage)
        asked = {name.decode("ascii"): text.decode("latin-1") for name, text in request.headers}
        method, target = request.method.decode("ascii"), request.target.decode("ascii")
        answer = await trio.to_thread.run_sync(self._site.answer, method, target, asked)
        try:
            close = has_body or self._site.drain.has_begun
            await self._send(answer, close=close, without_body=method == "HEAD")
        finally:
            answer.close()

    async def _send(self, answer: Answer, *, close: bool, without_body: bool = False) -> None:
        # A file is what its name says: a text that looks like HTML is no page of this site.
        as_told = ("X-Content-Type-Options", "nosniff")
        headers = [("Date", formatdate(usegmt=True)), as_told, *answer.headers]
        if answer.status is not HTTPStatus.NOT_MODIFIED:
            headers.append(("Content-Length", str(answer.length)))
        if close:
            headers.append(("Connection", "close"))
        status = answer.status
        await self._put(
            h11.Response(status_code=status, headers=headers, reason=status.phrase.encode())
        )
        if without_body:
            pass
        elif isinstance(answer.body, bytes):
            await self._put(h11.Data(data=answer.body))
        else:
            await self._send_part(answer.body)
        await self._put(h11.EndOfMessage())

    async def _send_part(self, part: Part) -> None:
        part.file.seek(part.span.start)
        file = trio.wrap_file(part.file)  # it reads in a thread
        left = len(part.span)
        while left > 0:
            data = await file.read(min(left, _CHUNK_BYTES))
            if not data:
                raise UnfinishedError(f"{part.file.name} has become shorter while it was sent")
            await self._put(h11.Data(data=data))
            left -= len(data)

    async def _put(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        if not (data := self._http.send(event)):
            return
        with trio.move_on_after(self._site.send_timeout):
            await self._stream.send_all(data)
            return
        raise UnfinishedError("the client takes the answer too slowly")
