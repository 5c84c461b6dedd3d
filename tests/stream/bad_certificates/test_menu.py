"""What is on the menu is refused by both sides, which say why."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import dsa, ec

from tests.certificates import CLIENT, SERVER, Certificate, Issued
from tests.helpers import NAME, failure, failures, shake_hands, tcp_pair
from tests.stream.bad_certificates.menu import MENU, Dish, Presented
from tests.stream.bad_certificates.sides import (
    MUCH,
    PARTIAL_AND_STRICT,
    Pair,
    check_words,
    connections,
    context_for,
    presenting,
    tell,
)
from tests.tables import Tables
from trio_tlsbio import CertificateError, PeerAlertError, TLSError, TLSStream
from trio_tlsbio._core.certificate_words import VERIFY_CODES
from trio_tlsbio.testing import exchange


@functools.cache
def present(dish: Dish, root: Issued) -> Presented:
    return dish.make(root)


def serve(
    dish: Dish,
    root: Issued,
    *,
    by_client: bool,
    version: ssl.TLSVersion,
    flags: ssl.VerifyFlags,
) -> Pair | None:
    """Present a dish; None if all is said, as it is accepted or goes with another version."""
    pair = Pair.of(present(dish, root), root, by_client=by_client, version=version, flags=flags)
    if dish.is_strict if flags else dish.is_lax:
        shake_hands(pair.client, pair.server)
        return None
    if dish.only not in {None, version}:
        assert all(failures(pair.client, pair.server))
        return None
    return pair


@pytest.mark.parametrize("dish", MENU, ids=lambda dish: dish.what)
def test_the_client_refuses(
    dish: Dish, root: Issued, tls_version: ssl.TLSVersion, verify_flags: ssl.VerifyFlags
) -> None:
    pair = serve(dish, root, by_client=False, version=tls_version, flags=verify_flags)
    if pair is None:
        return
    pair.client.send(MUCH)
    sent, _ = exchange(pair.client, pair.server)
    assert sent < len(MUCH), "no data goes out"
    check_words(failure(pair.client), dish.verify_code)
    heard = failure(pair.server)
    assert isinstance(heard, PeerAlertError)
    assert heard.alert == dish.alert
    with pytest.raises(PeerAlertError):
        pair.server.receive()
    with pytest.raises(CertificateError):
        pair.client.send(b"all the same")
    assert pair.client.session is None


@pytest.mark.parametrize("dish", MENU, ids=lambda dish: dish.what)
def test_the_server_refuses(
    dish: Dish, root: Issued, tls_version: ssl.TLSVersion, verify_flags: ssl.VerifyFlags
) -> None:
    pair = serve(dish, root, by_client=True, version=tls_version, flags=verify_flags)
    if pair is None:
        return
    pair.server.send(MUCH)
    pair.client.send(b"before it hears of it")
    _, sent = exchange(pair.client, pair.server)
    assert sent < len(MUCH), "no data goes out"
    check_words(failure(pair.server), dish.verify_code)
    with pytest.raises(CertificateError):
        pair.server.receive()  # nor comes in
    heard = failure(pair.client)
    assert isinstance(heard, PeerAlertError)
    assert heard.alert == dish.alert
    with pytest.raises(PeerAlertError):
        pair.client.receive()


def test_the_menu_is_told(root: Issued, tables: Tables) -> None:
    for dish in MENU:
        pair = Pair.of(
            present(dish, root),
            root,
            by_client=False,
            version=dish.only or ssl.TLSVersion.TLSv1_3,
            flags=PARTIAL_AND_STRICT if dish.is_lax else 0,
        )
        tell(tables, dish.what, *failures(pair.client, pair.server))


def test_each_kind_of_refusal_is_on_the_menu() -> None:
    told = {dish.verify_code for dish in MENU}
    # Those that OpenSSL has from before, and what it does not get to: it refuses them earlier.
    assert VERIFY_CODES.keys() - told == {21, 24, 41, 80, 81, 84, 87, 90, 91, 93}


@pytest.mark.parametrize("of_client", [False, True], ids=["server", "client"])
def test_a_certificate_of_the_other_side(
    of_client: bool, root: Issued, tls_version: ssl.TLSVersion, tables: Tables
) -> None:
    wrong = Certificate(purposes=[SERVER if of_client else CLIENT]).signed_by(root)
    pair = Pair.of(
        Presented(chain=[wrong]), root, by_client=of_client, version=tls_version, flags=0
    )
    client_error, server_error = failures(pair.client, pair.server)
    refusal, heard = (server_error, client_error) if of_client else (client_error, server_error)
    assert isinstance(refusal, CertificateError)
    check_words(refusal, 26)
    assert isinstance(heard, PeerAlertError)
    assert heard.alert == "unsupported_certificate"
    if tls_version is ssl.TLSVersion.TLSv1_3:
        what = "A client presents a server's" if of_client else "A server presents a client's"
        tell(tables, what, refusal, heard)
    # And the right one is accepted.
    right = Certificate(purposes=[CLIENT if of_client else SERVER]).signed_by(root)
    pair = Pair.of(
        Presented(chain=[right]), root, by_client=of_client, version=tls_version, flags=0
    )
    shake_hands(pair.client, pair.server)


def test_no_client_certificate(root: Issued, tls_version: ssl.TLSVersion, tables: Tables) -> None:
    client = context_for(server_side=False, version=tls_version, trusted=[root])
    server = context_for(server_side=True, version=tls_version, trusted=[root])
    Certificate().signed_by(root).load_into(server)
    pair = connections(client, server)
    pair.client.send(b"before it hears of it")
    heard, refusal = failures(pair.client, pair.server)
    assert isinstance(refusal, TLSError)
    assert str(refusal) == "the peer sent no client certificate, and one is required"
    assert refusal.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    with pytest.raises(TLSError, match="no client certificate"):
        pair.server.receive()
    assert isinstance(heard, PeerAlertError)
    is_new = tls_version is ssl.TLSVersion.TLSv1_3
    assert heard.alert == ("certificate_required" if is_new else "handshake_failure")
    assert "client certificate" in str(heard)
    version = "TLS 1.3" if is_new else "TLS 1.2"
    tell(tables, f"A client presents none, but the server requires one ({version})", refusal, heard)


@pytest.mark.parametrize(
    "key",
    [
        lambda: dsa.generate_private_key(1024),
        lambda: ec.generate_private_key(ec.SECP192R1()),
    ],
    ids=["DSA", "P-192"],
)
def test_a_key_that_goes_with_no_version(
    key: Callable[[], object], root: Issued, tls_version: ssl.TLSVersion
) -> None:
    """The server can't use it, and tells both sides so."""
    presented = Presented(chain=[Certificate(key=key()).signed_by(root)])
    pair = Pair.of(presented, root, by_client=False, version=tls_version, flags=0)
    heard, error = failures(pair.client, pair.server)
    is_new = tls_version is ssl.TLSVersion.TLSv1_3
    assert error is not None
    assert error.reason == ("UNSUPPORTED_PROTOCOL" if is_new else "NO_SHARED_CIPHER")
    assert isinstance(heard, PeerAlertError)
    assert heard.alert == ("protocol_version" if is_new else "handshake_failure")


################################################################
# Over a network
################################################################


@pytest.mark.parametrize("by_client", [False, True], ids=["server", "client"])
async def test_streams(by_client: bool, root: Issued, tls_version: ssl.TLSVersion) -> None:
    presented = Presented(chain=[Certificate(days=(-9, -1)).signed_by(root)])
    client_context = context_for(server_side=False, version=tls_version, trusted=[root])
    server_context = context_for(
        server_side=True, version=tls_version, trusted=[root] if by_client else []
    )
    if by_client:
        presenting(client_context, presented)
        Certificate().signed_by(root).load_into(server_context)
    else:
        presenting(server_context, presented)
    errors: dict[str, TLSError] = {}

    async def use(side: str, stream: TLSStream[Any]) -> None:
        try:
            await stream.send_all(b"data")
            await stream.receive_some()
        except TLSError as exc:
            errors[side] = exc

    with trio.fail_after(10):
        async with tcp_pair() as (client, server), trio.open_nursery() as nursery:
            nursery.start_soon(
                use, "client", TLSStream(client, client_context, server_hostname=NAME)
            )
            nursery.start_soon(use, "server", TLSStream(server, server_context, server_side=True))
    refusal, heard = errors["client"], errors["server"]
    if by_client:
        refusal, heard = heard, refusal
    check_words(refusal, 10)
    assert isinstance(heard, PeerAlertError)
    assert heard.alert == "certificate_expired"
