"""What passes on the wire in a handshake: test_one_round_trip() is run by
pytest-trio.
"""

import trio
import trio.testing

from trio_tlsbio.testing import (
    CertificateAuthority,
    Direction,
    RecordedStream,
    do_handshakes,
    tls_stream_pair,
)


async def test_one_round_trip() -> None:
    """TLS 1.3 takes one round trip before the client may send (RFC 9846 section
    2).
    """
    authority = CertificateAuthority()
    transport, server_transport = trio.testing.memory_stream_pair()
    recorded = RecordedStream(transport)
    client, server = tls_stream_pair(
        (recorded, server_transport),
        authority.client_context(),
        authority.server_context(),
    )
    await do_handshakes(client, server)
    hello, answer, finished = recorded.conversation.flights[:3]
    assert [flight.direction for flight in (hello, answer, finished)] == [
        Direction.SENT,
        Direction.RECEIVED,
        Direction.SENT,
    ]
    assert hello.records[0].messages == ("ClientHello",)
    assert answer.records[0].messages == ("ServerHello",)
    assert answer.records[-1].is_encrypted
    assert answer.size > 1000  # the certificate is in it
