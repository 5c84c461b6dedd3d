"""The two sides of a connection, one of which presents something, and what both say."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence

import attrs

from tests.certificates import Certificate, Issued, load_revocation_list
from tests.helpers import NAME
from tests.stream.bad_certificates.menu import Presented, authority
from tests.tables import Tables
from trio_tlsbio import CertificateError, PeerAlertError, TLSConnection, TLSError
from trio_tlsbio._core.certificate_words import VERIFY_CODES

PARTIAL_AND_STRICT = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN


# As much as no handshake takes: were it sent, one would see it.
MUCH = bytes(100_000)


def context_for(
    *, server_side: bool, version: ssl.TLSVersion, flags: int = 0, trusted: Sequence[Issued] = ()
) -> ssl.SSLContext:
    """A context that is the same with all versions of Python. It verifies if it trusts somebody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.verify_flags |= ssl.VerifyFlags(flags)
    for each in trusted:
        each.trusted_by(context)
    if server_side and trusted:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def accepting(context: ssl.SSLContext, presented: Presented) -> None:
    """Load the revocation lists, and have them looked at."""
    if presented.lists is not None:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        if presented.lists:
            load_revocation_list(context, presented.lists)
    context.verify_flags |= ssl.VerifyFlags(presented.flags)


def presenting(context: ssl.SSLContext, presented: Presented) -> None:
    """Load what no side with a sane security level could."""
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    presented.chain[0].load_into(context, *presented.chain[1:])


@attrs.frozen
class Pair:
    """The two sides, one of which presents something."""

    client: TLSConnection
    server: TLSConnection

    @classmethod
    def of(
        cls,
        presented: Presented,
        root: Issued,
        *,
        by_client: bool,
        version: ssl.TLSVersion,
        flags: int,
    ) -> Pair:
        trusted = [root] if presented.trusted is None else presented.trusted
        if by_client:
            # A client adds to its chain what it trusts, so that is to be somebody else.
            another = authority("another").signed_by(None)
            client = context_for(server_side=False, version=version, trusted=[another])
            server = context_for(server_side=True, version=version, flags=flags, trusted=trusted)
            Certificate().signed_by(another).load_into(server)
            presenting(client, presented)
            accepting(server, presented)
        else:
            client = context_for(server_side=False, version=version, flags=flags, trusted=trusted)
            server = context_for(server_side=True, version=version)
            presenting(server, presented)
            accepting(client, presented)
        return cls(
            TLSConnection(client, server_hostname=NAME), TLSConnection(server, server_side=True)
        )


def check_words(error: TLSError | None, verify_code: int) -> CertificateError:
    """See that an error has all its fields, and words of its own."""
    assert isinstance(error, CertificateError)
    assert error.verify_code == verify_code
    assert error.reason == "CERTIFICATE_VERIFY_FAILED"
    assert error.error_type == "certificate_verify_failed"
    words = str(error).removeprefix("the peer's certificate was refused: ")
    if verify_code == 10:
        assert re.match(VERIFY_CODES[10] + "|(it|one of its issuers) has expired .valid", words)
        assert words.endswith("; if it was renewed, the peer has not loaded the new one")
    else:
        assert words.startswith(VERIFY_CODES[verify_code])
    cause = error.__cause__
    assert isinstance(cause, ssl.SSLCertVerificationError)
    assert cause.verify_code == verify_code
    return error


def tell(tables: Tables, what: str, refusal: TLSError | None, heard: TLSError | None) -> None:
    assert isinstance(heard, PeerAlertError)
    words = re.sub("valid until .* UTC", "valid until …", str(refusal))
    tables.tell("certificates", what, words.replace("*", r"\*"), heard.alert)


def connections(client: ssl.SSLContext, server: ssl.SSLContext, hostname: str = NAME) -> Pair:
    return Pair(
        TLSConnection(client, server_hostname=hostname), TLSConnection(server, server_side=True)
    )


def named(
    certificate: Certificate, hostname: str, root: Issued, version: ssl.TLSVersion, flags: int = 0
) -> Pair:
    client = context_for(server_side=False, version=version, flags=flags, trusted=[root])
    server = context_for(server_side=True, version=version)
    certificate.signed_by(root).load_into(server)
    return connections(client, server, hostname)
