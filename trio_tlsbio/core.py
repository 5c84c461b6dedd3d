"""For code that uses the core directly: a connection's states, and interfaces of transports."""

from __future__ import annotations

from ._core.states import State
from ._public import publish
from ._stream.interfaces import CountingStream, ImmediateStream, LingeringStream, WatchedStream

__all__ = ["CountingStream", "ImmediateStream", "LingeringStream", "State", "WatchedStream"]

publish(__name__)
