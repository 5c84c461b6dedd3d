"""For code that embeds the core: a connection's states, and what its transports may offer."""

from __future__ import annotations

from ._core.states import State
from ._public import publish
from ._stream.abstract import CountingStream, ImmediateStream, LingeringStream, WatchedStream

__all__ = ["CountingStream", "ImmediateStream", "LingeringStream", "State", "WatchedStream"]

publish(__name__)
