"""How many functions of ours a small message takes each way: no feature may add to them."""

from __future__ import annotations

import importlib
import inspect
import re
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import trio

import trio_tlsbio
from tests.helpers import DOCS, both_handshakes, counts_references, tcp_pair, wrap_pair

# A step of a walk in the design page: a file of the package, and a function in it.
STEP = re.compile(r"^\d\. ``([\w/]+)\.py``: ``([\w.]+)``", re.MULTILINE)

SOURCES = str(Path(trio_tlsbio.__file__).parent)
MESSAGE = bytes(64)


async def calls_of(operation: Callable[[], Awaitable[object]]) -> list[str]:
    """Run an operation, and return the functions of ours that it has called."""
    # A coroutine that goes on is reported once more, but its frame is the same. All of them are
    # kept, so that no two have one identity.
    frames: list[FrameType] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        is_ours = frame.f_code.co_filename.startswith(SOURCES)
        if event == "call" and is_ours and all(frame is not each for each in frames):
            frames.append(frame)

    sys.setprofile(note)
    try:
        await operation()
    finally:
        sys.setprofile(None)
    return [frame.f_code.co_qualname for frame in frames]


@counts_references  # PyPy's profiler sees other frames
async def test_a_small_message_takes_few_calls(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, client_context, server_context)
        await both_handshakes(client, server)
        for _ in range(3):  # the tickets have been taken in afterwards
            await client.send_all(MESSAGE)
            assert await server.receive_some() == MESSAGE
            await server.send_all(MESSAGE)
            assert await client.receive_some() == MESSAGE
        sent = await calls_of(lambda: client.send_all(MESSAGE))
        await trio.lowlevel.wait_readable(server.transport_stream.socket)
        received = await calls_of(server.receive_some)
    if tls_version is ssl.TLSVersion.TLSv1_3:
        sending, receiving, *_ = walks()
        assert sent == [function for _, function in sending]
        assert received == [function for _, function in receiving]
    # In TLS 1.2 it looks for a request for a new handshake too, which a write would answer.
    assert len(sent) <= (7 if tls_version is ssl.TLSVersion.TLSv1_2 else 6), sent
    assert len(received) <= 9, received


def walks() -> list[list[tuple[str, str]]]:
    """Return the walks through the code in the design page: files and functions."""
    page = (DOCS / "design.rst").read_text(encoding="utf-8")
    section = page.partition("Three walks")[2].partition("\nStates\n")[0]
    return [found for block in section.split("\n\n") if (found := STEP.findall(block))]


def test_the_walks_in_the_design_page_lead_somewhere() -> None:
    assert len(walks()) == 4
    for file, function in (step for walk in walks() for step in walk):
        place: object = importlib.import_module(f"trio_tlsbio.{file.replace('/', '.')}")
        for name in function.split("."):
            place = getattr(place, name)
        code = inspect.unwrap(place).__code__ if callable(place) else None
        assert code is None or code.co_filename.endswith(f"{file}.py")
