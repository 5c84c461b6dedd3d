"""Ask the authority whether a certificate was revoked (OCSP, RFC 6960), before
any data passes.

Needs ``cryptography`` (43 or later) and ``httpx``. Without a good answer the
peer is refused, too: whoever can redirect the connection to the peer can also
cut the one to the authority.
"""

import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import httpx
import trio
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

import trio_tlsbio

CLOCK_SKEW = timedelta(minutes=5)
HEADERS = {"Content-Type": "application/ocsp-request"}


class RevokedError(Exception):
    """The authority says that the certificate was revoked."""


class NoAnswerError(Exception):
    """The authority has not said that the certificate is good."""


class RevocationCheck:
    """Asks about each peer.

    Args:
      client: What to ask with. Its timeout counts as a part of the handshake.
      issuers: The certificates of the authorities that issue the peers'
        certificates, intermediate ones included. Those that a peer sends along
        prove nothing.
    """

    def __init__(
        self, client: httpx.AsyncClient, issuers: Iterable[x509.Certificate]
    ) -> None:
        self.client = client
        self.issuers = list(issuers)

    async def verify(self, handshake: trio_tlsbio.HandshakeInfo) -> None:
        """For ``verify_peer``: refuse a peer unless its certificate is good."""
        certificate = x509.load_der_x509_certificate(
            handshake.peer_certificate_chain[0]
        )
        issuer = self.issuer_of(certificate)
        urls = (handshake.peer_certificate or {}).get("OCSP")
        if not urls:
            raise NoAnswerError("the certificate names nobody to ask")
        # SHA-1 is only a way to name the issuer here, and the one that all
        # authorities know.
        builder = ocsp.OCSPRequestBuilder().add_certificate(
            certificate, issuer, SHA1()
        )
        request = builder.build()
        try:
            answer = await self.client.post(
                urls[0],
                content=request.public_bytes(Encoding.DER),
                headers=HEADERS,
            )
            response = ocsp.load_der_ocsp_response(
                answer.raise_for_status().content
            )
        except (httpx.HTTPError, ValueError) as exc:
            raise NoAnswerError(f"{urls[0]}: {exc!r}") from exc
        check(response, request, issuer)

    def issuer_of(self, certificate: x509.Certificate) -> x509.Certificate:
        for issuer in self.issuers:
            if has_issued(issuer, certificate):
                return issuer
        raise NoAnswerError(
            f"the issuer is not known: {certificate.issuer.rfc4514_string()}"
        )


def check(
    response: ocsp.OCSPResponse,
    request: ocsp.OCSPRequest,
    issuer: x509.Certificate,
) -> None:
    """Refuse an answer that does not say that the certificate is good."""
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise NoAnswerError(
            f"the authority answers {response.response_status.name}"
        )
    if not any(
        is_signed_by(each, response)
        for each in may_answer_for(issuer, response)
    ):
        raise NoAnswerError("the answer is not signed by the authority")
    for each in response.responses:
        if (
            each.serial_number,
            each.issuer_name_hash,
            each.issuer_key_hash,
        ) == (
            request.serial_number,
            request.issuer_name_hash,
            request.issuer_key_hash,
        ):
            break
    else:
        raise NoAnswerError("the answer is about another certificate")
    # An answer that doesn't say how long it is valid was made for this moment.
    end = each.next_update_utc or each.this_update_utc
    if (
        not each.this_update_utc - CLOCK_SKEW
        <= datetime.now(UTC)
        <= end + CLOCK_SKEW
    ):
        raise NoAnswerError(
            f"the answer is of {each.this_update_utc}, and not valid now"
        )
    if each.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        raise RevokedError(f"revoked on {each.revocation_time_utc}")
    if each.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        raise NoAnswerError("the authority does not know the certificate")


def may_answer_for(
    issuer: x509.Certificate, response: ocsp.OCSPResponse
) -> Iterable[x509.Certificate]:
    """Yield the issuer, and those that it has authorised to answer (RFC 6960
    section 4.2.2.2).
    """
    yield issuer
    now = datetime.now(UTC)
    for each in response.certificates:
        if (
            has_issued(issuer, each)
            and each.not_valid_before_utc <= now <= each.not_valid_after_utc
        ):
            try:
                usage = each.extensions.get_extension_for_class(
                    x509.ExtendedKeyUsage
                ).value
            except x509.ExtensionNotFound:
                continue
            if ExtendedKeyUsageOID.OCSP_SIGNING in usage:
                yield each


def has_issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def is_signed_by(
    certificate: x509.Certificate, response: ocsp.OCSPResponse
) -> bool:
    key, algorithm = certificate.public_key(), response.signature_hash_algorithm
    assert algorithm is not None
    try:
        match key:
            case rsa.RSAPublicKey():
                key.verify(
                    response.signature,
                    response.tbs_response_bytes,
                    padding.PKCS1v15(),
                    algorithm,
                )
            case ec.EllipticCurvePublicKey():
                key.verify(
                    response.signature,
                    response.tbs_response_bytes,
                    ec.ECDSA(algorithm),
                )
            case _:
                return False
    except InvalidSignature:
        return False
    return True


async def ask(
    host: str,
    port: int,
    question: bytes,
    ssl_context: ssl.SSLContext,
    check: RevocationCheck,
) -> bytes:
    stream = await trio_tlsbio.open_tls_over_tcp_stream(
        host, port, ssl_context=ssl_context, verify_peer=check.verify
    )
    async with stream:
        await stream.send_all(question)
        return bytes(await stream.receive_some())


async def main() -> None:
    issuers = x509.load_pem_x509_certificates(
        await trio.Path("our-ca.pem").read_bytes()
    )
    ssl_context = ssl.create_default_context(cafile="our-ca.pem")
    async with httpx.AsyncClient(timeout=5) as client:
        check = RevocationCheck(client, issuers)
        print(await ask("echo.example", 4433, b"hello\n", ssl_context, check))


if __name__ == "__main__":
    trio.run(main)
