"""httpcore alone: what a response's connection agreed on."""

import ssl

import httpcore

from trio_tlsbio.httpcore import TLSBackend


async def describe(url: str, ssl_context: ssl.SSLContext) -> list[str]:
    """Send two requests, each over a new connection. (Without ``ssl_context``,
    httpcore would make a context for each, and no session could be resumed.)
    """
    lines = []
    async with httpcore.AsyncConnectionPool(
        ssl_context=ssl_context,
        max_keepalive_connections=0,
        http2=True,
        network_backend=TLSBackend(),
    ) as pool:
        for _ in range(2):
            response = await pool.request("GET", url)
            stream = response.extensions["network_stream"].get_extra_info(
                "tls_stream"
            )
            how = (
                "resumed"
                if stream.handshake.session_reused
                else "full handshake"
            )
            lines.append(
                f"{response.status}, {stream.handshake.version}, {how}"
            )
    return lines
