"""Fetch a tenant's certificate when its first client connects, and keep it."""

import ssl
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

import trio

import trio_tlsbio

Fetch = Callable[[str], Awaitable[bytes | None]]


class Tenants:
    """The tenants' contexts. ``fetch`` returns a certificate and its key, or
    None, for a name.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._contexts: dict[str, ssl.SSLContext] = {}
        # A lock goes when no connection waits for it: strangers can ask for any
        # number of names.
        self._locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    async def choose(self, hello: trio_tlsbio.ClientHello) -> ssl.SSLContext:
        """Return the context for a client. One connection fetches it, and
        others for the same name wait; if that connection ends meanwhile, the
        next one fetches it.
        """
        name = hello.server_name or ""
        if name not in self._contexts:
            lock = self._locks.setdefault(name, trio.Lock())
            async with lock:
                if name not in self._contexts:
                    self._contexts[name] = await self._make_context(name)
        return self._contexts[name]

    def forget(self, name: str) -> None:
        """Fetch the certificate again for the next client, because it was
        renewed.
        """
        self._contexts.pop(name, None)

    async def _make_context(self, name: str) -> ssl.SSLContext:
        identity = await self._fetch(name) if name else None
        if identity is None:
            raise trio_tlsbio.RefuseHandshake(
                "unrecognized_name", f"no tenant is named {name!r}"
            )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trio_tlsbio.load_identity(context, identity, identity)
        return context


async def fetch_from_folder(name: str) -> bytes | None:
    """In place of your database, or a request to your control plane."""
    try:
        # It is a host name, so no part of a path.
        return await trio.Path("tenants", f"{name}.pem").read_bytes()
    except FileNotFoundError:
        return None


async def greet(stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> None:
    await stream.send_all(
        f"this is {stream.handshake.server_hostname}\n".encode()
    )


async def main() -> None:
    tenants = Tenants(fetch_from_folder)
    await trio_tlsbio.serve_tls_over_tcp(greet, 443, tenants.choose)


if __name__ == "__main__":
    trio.run(main)
