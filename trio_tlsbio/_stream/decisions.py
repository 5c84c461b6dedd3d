"""Decisions of user functions during a handshake: a server's context, and verifying the peer."""

from __future__ import annotations

import inspect
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias, TypeGuard

import attrs
from trio.lowlevel import disable_ki_protection

from trio_tlsbio._core.client_hello import ClientHello
from trio_tlsbio._core.connection import TLSConnection
from trio_tlsbio._core.errors import RefuseHandshake, TLSError, caused_by, described
from trio_tlsbio._core.handshake_info import HandshakeInfo
from trio_tlsbio._core.misuse import kind_of

from .turns import Turn

__all__ = [
    "ChooseContext",
    "Decisions",
    "VerifyPeer",
    "answer_of",
    "checked_function",
    "is_function",
]

ChooseContext: TypeAlias = Callable[[ClientHello], ssl.SSLContext | Awaitable[ssl.SSLContext]]
"""Chooses a server's context for a client, based on its ClientHello."""

VerifyPeer: TypeAlias = Callable[[HandshakeInfo], Awaitable[object]]
"""Verifies a peer that OpenSSL has accepted. An exception refuses the peer."""


def is_function(value: object) -> TypeGuard[Callable[..., Any]]:
    """Return True if a value can be called and is not a class.

    A class in place of a function is a mistake: the caller forgot to create an instance.
    """
    return callable(value) and not isinstance(value, type)


def checked_function(function: object, name: str) -> Callable[[Any], Any]:
    """Return ``function``, or raise :exc:`TypeError` if it can't be a function that decides."""
    if isinstance(function, Coroutine):
        function.close()  # or Python would warn that it was never awaited
        raise TypeError(
            f"{name} must be a function, not a coroutine: pass the function itself, without "
            "calling it"
        )
    if is_function(function):
        return function
    if name == "ssl_context":
        raise TypeError(
            f"ssl_context must be a function or an ssl.SSLContext, not {kind_of(function)}: "
            "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) makes one"
        )
    raise TypeError(
        f"{name} must be a function, not {kind_of(function)}: define one with async def"
    )


@attrs.define(eq=False)
class Decisions:
    """Calls the user's functions when a handshake pauses for them.

    One task calls the function, and others that need the handshake wait for it. If that task is
    cancelled, the next one calls the function again.
    """

    _connection: TLSConnection
    _choose_context: ChooseContext | None
    _verify_peer: VerifyPeer | None
    _turn: Turn = attrs.field(factory=Turn, init=False)

    async def make(self) -> bool:
        """Call the user's function, and pass the result to the connection. Return False if the
        handshake has not paused for a decision.

        Raises:
          Exception: any exception of the user's function except :exc:`RefuseHandshake`.
        """
        connection, handshake = self._connection, self._connection.unverified
        if handshake is None and not connection.wants_context:
            return False
        if self._turn.is_taken:
            await self._turn.wait()
            return True
        self._turn.is_taken = True
        try:
            await (self._choose() if handshake is None else self._verify(handshake))
        finally:
            self._turn.leave()
        return True

    async def _choose(self) -> None:
        connection, hello = self._connection, self._connection.client_hello
        assert self._choose_context is not None
        assert hello is not None
        try:
            connection.use_context(await _context_from(self._choose_context, hello))
        except RefuseHandshake as exc:
            connection.refuse_handshake(exc)
        except Exception:
            connection.refuse_handshake(RefuseHandshake("internal_error"))
            raise

    async def _verify(self, handshake: HandshakeInfo) -> None:
        connection = self._connection
        assert self._verify_peer is not None
        try:
            accepts = await answer_of(self._verify_peer, "verify_peer", handshake)
            if accepts is False:
                raise TypeError(
                    "verify_peer returned False: to refuse a peer, raise an exception instead"
                )
        except TLSError as exc:
            connection.abort(exc.again())
        except Exception as exc:
            message = f"verify_peer has refused the peer: {described(exc)}"
            connection.abort(caused_by(TLSError(message, reason="PEER_REFUSED"), exc))
        else:
            connection.accept_peer()


@disable_ki_protection  # the user's function can take long, and Ctrl-C should interrupt it
async def _context_from(choose_context: ChooseContext, hello: ClientHello) -> ssl.SSLContext:
    """Call a user's function, async or not, and return its result."""
    result = choose_context(hello)
    if isinstance(result, ssl.SSLContext) or not inspect.isawaitable(result):
        return result
    return await result


@disable_ki_protection  # as above
async def answer_of(function: Callable[..., Any], name: str, *arguments: object) -> Any:
    """Call the async function that was passed as the parameter ``name``, and return its result.

    Raises:
      TypeError: if it is not async, which is only known once it is called.
    """
    result = function(*arguments)
    if not inspect.isawaitable(result):
        shown = getattr(function, "__qualname__", function)
        raise TypeError(
            f"{name} must be an async function, but {shown} appears to be synchronous: define it "
            "with async def"
        )
    return await result
