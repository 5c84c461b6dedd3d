"""What Granian serves: a module of its own, so that it starts quickly."""

from __future__ import annotations

from typing import Any


async def app(scope: object, protocol: Any) -> None:
    protocol.response_str(200, [], "HELLO\n")
