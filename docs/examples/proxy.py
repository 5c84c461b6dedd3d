"""TLS through an HTTP proxy: CONNECT (RFC 9110 section 9.3.6), then TLS with
the server itself.
"""

import ssl

import trio

import trio_tlsbio


class ProxyError(Exception):
    """The proxy has made no tunnel."""


async def open_tunnel(
    proxy: trio.abc.Stream, host: str, port: int, ssl_context: ssl.SSLContext
) -> trio_tlsbio.TLSStream[trio.abc.Stream]:
    """Connect to a host through a proxy, and start TLS with that host. The
    proxy sees only ciphertext.
    """
    try:
        target = f"{host}:{port}"
        await proxy.send_all(
            f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            chunk = await proxy.receive_some()
            if not chunk or len(answer) > 10_000:
                raise ProxyError("the proxy does not answer as it should")
            answer += chunk
        head, _, rest = answer.partition(b"\r\n\r\n")
        status = head.partition(b"\r\n")[0].decode("ascii", "replace")
        if not status.startswith(("HTTP/1.1 2", "HTTP/1.0 2")):
            raise ProxyError(f"the proxy says {status!r}")
    except BaseException:
        await trio.aclose_forcefully(proxy)
        raise
    return await trio_tlsbio.start_tls(
        proxy, ssl_context, buffered=rest, server_hostname=host
    )


async def main() -> None:
    context = ssl.create_default_context()
    # A connection by TLS to the proxy as well: what goes through the tunnel is
    # TLS in TLS.
    proxy = await trio_tlsbio.open_tls_over_tcp_stream(
        "proxy.example", 3129, ssl_context=context
    )
    async with await open_tunnel(
        proxy, "echo.example", 4433, context
    ) as stream:
        await stream.send_all(b"hello\n")
        print(await stream.receive_some())


if __name__ == "__main__":
    trio.run(main)
