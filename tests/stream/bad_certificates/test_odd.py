"""What is odd, but not bad: it is accepted."""

from __future__ import annotations

import ssl

import pytest
from cryptography import x509

from tests.certificates import RSA_MD5, RSA_SHA1, Certificate, Issued
from tests.helpers import NAME, failures, shake_hands
from tests.stream.bad_certificates.menu import Presented, authority, weakly_signed
from tests.stream.bad_certificates.sides import (
    Pair,
    check_words,
    connections,
    context_for,
    named,
    presenting,
)


@pytest.mark.parametrize("odd", ["order", "others", "root", "twice", "long"])
def test_an_odd_chain_is_accepted(
    odd: str, root: Issued, tls_version: ssl.TLSVersion, verify_flags: ssl.VerifyFlags
) -> None:
    key = Certificate().key
    chain = [root]
    for number in range(99 if odd == "long" else 2):
        chain.append(authority(f"authority {number}", key=key).signed_by(chain[-1]))
    others = [authority(f"other {number}").signed_by(None) for number in range(2)]
    sent = {
        "order": chain[1:],
        "others": [others[0], *reversed(chain[1:]), others[1]],
        "root": [*reversed(chain)],
        "twice": [*reversed(chain[1:])] * 2,
        "long": [*reversed(chain[1:])],
    }[odd]
    certificate = Certificate().signed_by(chain[-1])
    pair = Pair.of(
        Presented(chain=[certificate, *sent]),
        root,
        by_client=False,
        version=tls_version,
        flags=verify_flags,
    )
    shake_hands(pair.client, pair.server)
    assert pair.client.handshake is not None
    assert pair.client.handshake.peer_certificate_chain == tuple(
        each.der for each in (certificate, *sent)
    )


def test_what_is_not_critical_may_be_unknown(root: Issued, tls_version: ssl.TLSVersion) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    pair = named(Certificate(extensions=[(unknown, False)]), NAME, root, tls_version)
    shake_hands(pair.client, pair.server)


def test_a_list_that_revokes_others(root: Issued, tls_version: ssl.TLSVersion) -> None:
    lists = root.revokes(Certificate().signed_by(root))
    presented = Presented(chain=[Certificate().signed_by(root)], lists=lists)
    for by_client in (False, True):
        pair = Pair.of(presented, root, by_client=by_client, version=tls_version, flags=0)
        shake_hands(pair.client, pair.server)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("algorithm", [RSA_SHA1, RSA_MD5], ids=["SHA-1", "MD5"])
def test_which_security_level_refuses_a_weak_hash(
    algorithm: bytes, level: int, root: Issued, tls_version: ssl.TLSVersion
) -> None:
    presented = weakly_signed(algorithm)
    assert presented.trusted is not None
    client = context_for(server_side=False, version=tls_version, trusted=presented.trusted)
    client.set_ciphers(f"DEFAULT:@SECLEVEL={level}")
    server = context_for(server_side=True, version=tls_version)
    presenting(server, presented)
    pair = connections(client, server)
    if level == 0:
        shake_hands(pair.client, pair.server)
    else:
        error, _ = failures(pair.client, pair.server)
        check_words(error, 68)
