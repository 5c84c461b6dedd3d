"""HTTP/2 with httpx: new connections resume the sessions of earlier ones."""

import ssl

import httpx
import trio

from trio_tlsbio.httpx import TLSTransport


async def fetch(
    urls: list[str],
    ssl_context: ssl.SSLContext | bool = True,
    proxy: str | None = None,
) -> list[str]:
    """Get all of them at once, and return their texts."""
    transport = TLSTransport(verify=ssl_context, http2=True, proxy=proxy)
    texts: dict[str, str] = {}

    async def get(url: str) -> None:
        response = await client.get(url)
        texts[url] = response.raise_for_status().text

    async with (
        httpx.AsyncClient(transport=transport) as client,
        trio.open_nursery() as nursery,
    ):
        for url in urls:
            nursery.start_soon(get, url)
    return [texts[url] for url in urls]


if __name__ == "__main__":
    print(
        trio.run(
            fetch, ["https://www.example.org/", "https://www.example.org/about"]
        )
    )
