"""The received ciphertext of a connection."""

from __future__ import annotations

import ssl

from tests.helpers import NAME, shake_hands
from trio_tlsbio import TLSConnection
from trio_tlsbio._core.inbox import MOST_RECORDS


def test_no_rest_of_a_call_is_left_after_discarding(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """Otherwise a stream that is being closed would never receive again."""
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    for _ in range(MOST_RECORDS + 10):
        client.send(b"?")
    server.feed(client.data_to_send())
    server.receive()
    assert server.is_behind
    server.inbox.discard()
    assert not server.is_behind
    assert server.receive() is None
