"""Answer ACME's challenge tls-alpn-01 (RFC 8737) on the port that serves
everybody else.

Your ACME client gives you the domain and the key authorization: call
Challenges.begin(), let the authority validate the domain, and call
Challenges.end().
"""

import datetime as dt
import hashlib
import ssl

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import trio_tlsbio

ACME_TLS = "acme-tls/1"  # what the authority offers by ALPN, and nothing else
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


def challenge_context(domain: str, key_authorization: str) -> ssl.SSLContext:
    """Make the context with the self-signed certificate that proves who
    controls the domain.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, "tls-alpn-01")]
    )
    now = dt.datetime.now(dt.UTC)
    digest = hashlib.sha256(key_authorization.encode()).digest()
    octet_string = bytes([4, len(digest)]) + digest  # in DER
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=False
        )
        .add_extension(
            x509.UnrecognizedExtension(ACME_IDENTIFIER, octet_string),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trio_tlsbio.load_identity(
        context,
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    context.set_alpn_protocols([ACME_TLS])
    return context


class Challenges:
    """The challenges that are pending. All clients but the authority get the
    usual context.
    """

    def __init__(self, ssl_context: ssl.SSLContext) -> None:
        self._ssl_context = ssl_context
        self._contexts: dict[str, ssl.SSLContext] = {}

    def begin(self, domain: str, key_authorization: str) -> None:
        self._contexts[domain] = challenge_context(domain, key_authorization)

    def end(self, domain: str) -> None:
        del self._contexts[domain]

    def choose(self, hello: trio_tlsbio.ClientHello) -> ssl.SSLContext:
        if hello.alpn_protocols != (ACME_TLS.encode(),):
            return self._ssl_context
        context = self._contexts.get(hello.server_name or "")
        if context is None:
            why = f"no challenge is pending for {hello.requested_name!r}"
            raise trio_tlsbio.RefuseHandshake("unrecognized_name", why)
        return context


async def echo(stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> None:
    if stream.handshake.alpn_protocol == ACME_TLS:
        return  # the handshake was all that the authority wanted
    async for chunk in stream:
        await stream.send_all(chunk)


async def main() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem", "server.key")
    challenges = Challenges(context)
    async with trio.open_nursery() as nursery:
        await nursery.start(
            trio_tlsbio.serve_tls_over_tcp, echo, 443, challenges.choose
        )
        challenges.begin("a.example", "the key authorization")
        # Now tell the authority that the challenge is ready, and wait until it
        # has validated it.


if __name__ == "__main__":
    trio.run(main)
