"""The examples for verify_peer: pins, revocation by OCSP, and a list of clients."""

from __future__ import annotations

import base64
import hashlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from tests.certificates import Certificate, Issued, rsa_key
from tests.docblocks import example
from tests.helpers import (
    HOST,
    client_context_for,
    echo,
    port_of,
    server_context_for,
    serving,
)
from tests.programs import needs
from trio_tlsbio import SessionCache, TLSError, TLSStream, open_tls_over_tcp_stream


def server_context_with(issued: Issued, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = context.maximum_version = version
    issued.load_into(context)
    return context


@pytest.fixture(scope="module")
def issuer(ca: trustme.CA) -> Issued:
    return Issued.of(ca)


################################################################
# Pins
################################################################


def pin_of(issued: Issued) -> str:
    key = issued.certificate.public_key()
    data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


async def test_pinning(
    client_context: ssl.SSLContext, tls_version: ssl.TLSVersion, issuer: Issued
) -> None:
    pinning = example("pinning")
    server = Certificate(names=[HOST]).signed_by(issuer)
    renewed = Certificate(names=[HOST], key=server.key).signed_by(issuer)
    backup = Certificate(names=[HOST]).signed_by(issuer)
    other = Certificate(names=[HOST]).signed_by(issuer)
    pins = pinning.Pins(pin_of(server), pin_of(backup))
    received: list[bytes | bytearray] = []

    async def listen(stream: TLSStream[trio.SocketStream]) -> None:
        received.extend([chunk async for chunk in stream])

    for issued in (server, renewed, backup):
        async with serving(listen, server_context_with(issued, tls_version)) as port:
            await pinning.send(HOST, port, b"secret", pins, client_context)
    assert received == [b"secret"] * 3
    async with serving(listen, server_context_with(other, tls_version)) as port:
        with pytest.raises(TLSError, match=r"WrongKeyError: 127\.0\.0\.1 has the key") as raised:
            await pinning.send(HOST, port, b"secret", pins, client_context)
        assert isinstance(raised.value.__cause__, pinning.WrongKeyError)
        assert pin_of(other) in str(raised.value)
    assert received == [b"secret"] * 3


def test_a_backup_pin_is_asked_for() -> None:
    with pytest.raises(ValueError, match="backup"):
        example("pinning").Pins("only one")


@needs("openssl")
def test_pins_are_those_of_the_shell_line(issuer: Issued, tmp_path: Path) -> None:
    server = Certificate().signed_by(issuer)
    (tmp_path / "server.pem").write_bytes(server.pem)
    _, _, lines = (example("pinning").__doc__ or "").partition("\n\n    ")
    line = " ".join(each.strip() for each in lines.splitlines())
    result = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == pin_of(server)


################################################################
# OCSP
################################################################


@attrs.define(eq=False)
class Responder:
    """Answers requests by OCSP over HTTP."""

    issuer: Issued
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD
    about: Issued | None = None
    """Another certificate than the one that is asked for."""
    days: tuple[float, float | None] = (-1, 1)
    """From when on, and until when, the answer holds."""
    signer: Issued | None = None
    """Who signs it, if not the issuer; its certificate is sent along."""
    error: ocsp.OCSPResponseStatus | None = None
    http_status: str = "200 OK"
    body: bytes | None = None
    is_damaged: bool = False
    asked: int = 0

    def answer(self, request: ocsp.OCSPRequest, certificates: dict[int, Issued]) -> bytes:
        if self.body is not None:
            return self.body
        if self.error is not None:
            response = ocsp.OCSPResponseBuilder.build_unsuccessful(self.error)
            return response.public_bytes(Encoding.DER)
        certificate = self.about or certificates[request.serial_number]
        is_revoked = self.status is ocsp.OCSPCertStatus.REVOKED
        now, signer = datetime.now(UTC), self.signer or self.issuer
        start, end = self.days
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                certificate.certificate,
                self.issuer.certificate,
                SHA1(),
                self.status,
                now + timedelta(start),
                None if end is None else now + timedelta(end),
                now - timedelta(2) if is_revoked else None,
                None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
        )
        if self.signer is not None:
            builder = builder.certificates([self.signer.certificate])
        answer = builder.sign(signer.key, SHA256()).public_bytes(Encoding.DER)
        # What is changed is in the signature.
        return answer[:-1] + bytes([answer[-1] ^ 1]) if self.is_damaged else answer

    async def serve(self, certificates: dict[int, Issued], stream: trio.SocketStream) -> None:
        self.asked += 1
        received = b""
        async with stream:
            while b"\r\n\r\n" not in received:
                received += await stream.receive_some()
            head, _, body = received.partition(b"\r\n\r\n")
            assert head.startswith(b"POST /ocsp HTTP/1.1\r\n")
            fields = dict(line.split(b": ") for line in head.lower().split(b"\r\n")[1:])
            assert fields[b"content-type"] == b"application/ocsp-request"
            while len(body) < int(fields[b"content-length"]):
                body += await stream.receive_some()
            answer = self.answer(ocsp.load_der_ocsp_request(body), certificates)
            length = f"Content-Length: {len(answer)}\r\nConnection: close\r\n\r\n"
            await stream.send_all(f"HTTP/1.1 {self.http_status}\r\n{length}".encode() + answer)


def with_responder(url: str, **options: Any) -> Certificate:
    """A certificate that names whom to ask about it."""
    description = x509.AccessDescription(
        AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url)
    )
    access = x509.AuthorityInformationAccess([description])
    return Certificate(names=[HOST], extensions=[(access, False)], **options)


Ask = Callable[..., Awaitable[bytes]]


@asynccontextmanager
async def asked_about(
    responder: Responder | None,
    client_context: ssl.SSLContext,
    version: ssl.TLSVersion,
    issuer: Issued,
    **options: Any,
) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """Serve with a certificate about which the responder, or nobody, answers."""
    module, certificates = example("ocsp"), {}
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    server = with_responder(f"http://{HOST}:{port_of(listener)}/ocsp", **options).signed_by(issuer)
    certificates[server.certificate.serial_number] = server
    async with trio.open_nursery() as nursery, httpx.AsyncClient(trust_env=False) as client:
        if responder is None:
            await listener.aclose()
        else:
            serve = partial(responder.serve, certificates)
            nursery.start_soon(trio.serve_listeners, serve, [listener])
        check = module.RevocationCheck(client, [Certificate().signed_by(None).certificate])
        check.issuers.append(issuer.certificate)
        async with serving(echo, server_context_with(server, version)) as port:
            yield partial(module.ask, HOST, port, b"hello", client_context, check)
        nursery.cancel_scope.cancel()


GOOD: dict[str, Callable[[Issued], Responder]] = {
    "good": Responder,
    "made for this moment": lambda issuer: Responder(issuer, days=(0, None)),
    "clocks differ": lambda issuer: Responder(issuer, days=(1 / 24 / 60, 1)),
    "by a responder of the issuer's": lambda issuer: Responder(issuer, signer=delegate(issuer)),
}


def delegate(issuer: Issued, **options: Any) -> Issued:
    """Somebody who may answer for the issuer."""
    options = {"purposes": [ExtendedKeyUsageOID.OCSP_SIGNING]} | options
    return Certificate(names=(), **options).signed_by(issuer)


@pytest.mark.parametrize("kind", GOOD)
async def test_ocsp_good(
    kind: str, client_context: ssl.SSLContext, tls_version: ssl.TLSVersion, issuer: Issued
) -> None:
    responder = GOOD[kind](issuer)
    async with asked_about(responder, client_context, tls_version, issuer) as ask:
        assert await ask() == b"hello"
    assert responder.asked == 1


async def test_ocsp_by_an_authority_with_rsa(tls_version: ssl.TLSVersion) -> None:
    issuer = Certificate(is_ca=True, key=rsa_key(2048)).signed_by(None)
    context = ssl.create_default_context(cadata=issuer.pem.decode())
    for status in ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED:
        async with asked_about(Responder(issuer, status), context, tls_version, issuer) as ask:
            if status is ocsp.OCSPCertStatus.GOOD:
                assert await ask() == b"hello"
            else:
                with pytest.raises(TLSError, match="RevokedError"):
                    await ask()


REFUSED: dict[str, tuple[Callable[[Issued], Responder | None], str]] = {
    "revoked": (
        lambda issuer: Responder(issuer, ocsp.OCSPCertStatus.REVOKED),
        "RevokedError: revoked on ",
    ),
    "unknown": (
        lambda issuer: Responder(issuer, ocsp.OCSPCertStatus.UNKNOWN),
        "the authority does not know the certificate",
    ),
    "responder is down": (lambda _: None, "NoAnswerError: http://.*ConnectError"),
    "responder has an error": (
        lambda issuer: Responder(issuer, http_status="500 Oops"),
        "NoAnswerError: http://.*500 Oops",
    ),
    "responder speaks of something else": (
        lambda issuer: Responder(issuer, body=b"<html>"),
        "NoAnswerError: http://.*ValueError",
    ),
    "responder is too busy": (
        lambda issuer: Responder(issuer, error=ocsp.OCSPResponseStatus.TRY_LATER),
        "the authority answers TRY_LATER",
    ),
    "about another certificate": (
        lambda issuer: Responder(issuer, about=Certificate().signed_by(issuer)),
        "the answer is about another certificate",
    ),
    "stale": (
        lambda issuer: Responder(issuer, days=(-10, -1)),
        "the answer is of .*, and not valid now",
    ),
    "stale, without an end": (
        lambda issuer: Responder(issuer, days=(-1, None)),
        "the answer is of .*, and not valid now",
    ),
    "from the future": (
        lambda issuer: Responder(issuer, days=(1, 2)),
        "the answer is of .*, and not valid now",
    ),
    "signed by somebody": (
        lambda issuer: Responder(issuer, signer=delegate(Certificate(is_ca=True).signed_by(None))),
        "the answer is not signed by the authority",
    ),
    "damaged": (
        lambda issuer: Responder(issuer, is_damaged=True),
        "the answer is not signed by the authority",
    ),
    "signed by one who may not": (
        lambda issuer: Responder(issuer, signer=delegate(issuer, purposes=())),
        "the answer is not signed by the authority",
    ),
    "signed by one who may do other things": (
        lambda issuer: Responder(
            issuer, signer=delegate(issuer, purposes=[ExtendedKeyUsageOID.SERVER_AUTH])
        ),
        "the answer is not signed by the authority",
    ),
    "signed by one who has expired": (
        lambda issuer: Responder(issuer, signer=delegate(issuer, days=(-10, -1))),
        "the answer is not signed by the authority",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_ocsp_refuses(
    kind: str, client_context: ssl.SSLContext, tls_version: ssl.TLSVersion, issuer: Issued
) -> None:
    make, words = REFUSED[kind]
    responder = make(issuer)
    async with asked_about(responder, client_context, tls_version, issuer) as ask:
        with pytest.raises(TLSError, match=words) as raised:
            await ask()
    assert raised.value.error_type == "peer_refused"
    assert responder is None or responder.asked == 1


async def test_ocsp_takes_its_time_from_the_handshake(
    client_context: ssl.SSLContext, tls_version: ssl.TLSVersion, issuer: Issued
) -> None:
    """An authority that accepts connections, and says nothing."""
    module = example("ocsp")
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    server = with_responder(f"http://{HOST}:{port_of(listener)}/ocsp").signed_by(issuer)
    async with listener, httpx.AsyncClient(trust_env=False, timeout=0.1) as client:
        check = module.RevocationCheck(client, [issuer.certificate])
        async with serving(echo, server_context_with(server, tls_version)) as port:
            with pytest.raises(TLSError, match=r"NoAnswerError: http://.*ReadTimeout"):
                await module.ask(HOST, port, b"hello", client_context, check)


async def test_ocsp_nobody_to_ask(
    client_context: ssl.SSLContext, tls_version: ssl.TLSVersion, issuer: Issued
) -> None:
    module = example("ocsp")
    other = Certificate(is_ca=True).signed_by(None)
    server = Certificate(names=[HOST]).signed_by(issuer)
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        serving(echo, server_context_with(server, tls_version)) as port,
    ):
        check = module.RevocationCheck(client, [issuer.certificate])
        with pytest.raises(TLSError, match="the certificate names nobody to ask"):
            await module.ask(HOST, port, b"hello", client_context, check)
        check = module.RevocationCheck(client, [other.certificate])
        with pytest.raises(TLSError, match="the issuer is not known"):
            await module.ask(HOST, port, b"hello", client_context, check)


################################################################
# A list of clients
################################################################

BILLING, OTHER = "spiffe://example.org/billing", "spiffe://example.org/other"


async def test_allow_list(
    ca: trustme.CA,
    server_cert: trustme.LeafCert,
    tls_version: ssl.TLSVersion,
    issuer: Issued,
    tmp_path: Path,
) -> None:
    module, path = example("allow_list"), tmp_path / "allowed.txt"
    server_context = server_context_for(server_cert, tls_version)
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_OPTIONAL
    names: dict[str, list[Any]] = {
        "billing": [x509.UniformResourceIdentifier(BILLING)],
        "other": [x509.UniformResourceIdentifier(OTHER)],
        "two": [x509.UniformResourceIdentifier(uri) for uri in (BILLING, OTHER)],
        "alice": ["alice.example"],
        "mallory": ["alice.example"],
    }
    clients = {
        name: Certificate(names=each, common_name=name).signed_by(issuer)
        for name, each in names.items()
    }

    def allow(*lines: str) -> None:
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def context_of(name: str | None) -> ssl.SSLContext:
        context = client_context_for(ca, tls_version)
        if name is not None:
            clients[name].load_into(context)
        return context

    async def greeting(context: ssl.SSLContext, **options: Any) -> bytes | bytearray:
        stream = await open_tls_over_tcp_stream(HOST, port, ssl_context=context, **options)
        async with stream:
            return await stream.receive_some()

    allow(BILLING, hashlib.sha256(clients["alice"].der).hexdigest())
    allowed = module.AllowList(str(path))
    async with serving(module.greet, server_context, verify_peer=allowed.verify) as port:
        assert await greeting(context_of("billing")) == f"hello, {BILLING}\n".encode()
        assert await greeting(context_of("alice")) == b"hello, alice\n"
        for name in ("other", "two", "mallory", None):
            with pytest.raises(trio.BrokenResourceError):
                await greeting(context_of(name))
        # Who is struck off the list can't resume a session either.
        context, cache = context_of("billing"), SessionCache()
        for _ in range(2):
            assert await greeting(context, session_cache=cache)
        assert context.session_stats()["hits"] == 1
        allow(OTHER)
        assert await greeting(context_of("other")) == f"hello, {OTHER}\n".encode()
        with pytest.raises(trio.BrokenResourceError):
            await greeting(context, session_cache=cache)
        path.unlink()
        with pytest.raises(trio.BrokenResourceError):
            await greeting(context_of("other"))
