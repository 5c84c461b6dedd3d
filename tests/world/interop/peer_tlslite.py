"""tlslite-ng as a peer; scripted.py tells how it is spoken to."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from tlslite.api import (
    HandshakeSettings,
    SessionCache,
    TLSConnection,
    TLSError,
    X509CertChain,
    parsePEMKey,
)
from tlslite.handshakesettings import Keypair

VERSIONS = {"1.2": (3, 3), "1.3": (3, 4)}


def tell(**facts: Any) -> None:
    """Print a line of JSON."""
    print(json.dumps(facts, separators=(",", ":")), flush=True)


def tell_facts(tls: TLSConnection) -> None:
    """Tell of a handshake."""
    session = tls.session
    tell(
        resumed=tls.resumed,
        alpn=session.appProto.decode() if session.appProto else None,
        name=session.serverName and str(session.serverName),
    )


def pair(path: str) -> Keypair:
    pem = Path(path).read_text(encoding="ascii")
    chain = X509CertChain()
    chain.parsePemList(pem)
    return Keypair(parsePEMKey(pem, private=True), chain.x509List)


def settings_for(terms: dict[str, Any]) -> HandshakeSettings:
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = VERSIONS[terms["version"]]
    # As a client it compresses its certificate by what it has offered itself, and not by what the
    # server has asked for (RFC 8879 section 3): a server that can't undo it has to end there.
    settings.certificate_compression_send = []
    return settings


def chain_of(keys: Keypair) -> X509CertChain:
    return X509CertChain(keys.certificates)


def answer(sock: socket.socket, **options: Any) -> None:
    with sock:
        tls = TLSConnection(sock)
        try:
            tls.handshakeServer(**options)
            tell_facts(tls)
            while data := tls.recv(4096):
                tls.sendall(data.upper())
            tls.close()
        except (TLSError, OSError) as exc:
            tell(error=repr(exc))


def serve(terms: dict[str, Any]) -> None:
    settings = settings_for(terms)
    settings.ticketKeys = [os.urandom(32)]
    keys = pair(terms["certificate"])
    options = {
        "certChain": chain_of(keys),
        "privateKey": keys.key,
        "settings": settings,
        "sessionCache": SessionCache(),
        "alpn": [name.encode() for name in terms["alpn"]],
        "reqCert": terms["asks_certificate"],
    }
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tell(port=listener.getsockname()[1])
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=answer, args=(sock,), kwargs=options, daemon=True).start()


def connect(terms: dict[str, Any], session: Any = None) -> TLSConnection:
    tls = TLSConnection(socket.create_connection(("127.0.0.1", terms["port"])))
    keys = terms["certificate"] and pair(terms["certificate"])
    tls.closeSocket = False  # close() waits for the peer's close_notify
    tls.handshakeClientCert(
        certChain=keys and chain_of(keys),
        privateKey=keys and keys.key,
        settings=settings_for(terms),
        session=session,
        serverName=terms["name"],
        alpn=[name.encode() for name in terms["alpn"]],
    )
    tell_facts(tls)
    tls.sendall(b"hello\n")
    tell(answer=tls.recv(4096).decode())
    return tls


def talk(terms: dict[str, Any]) -> None:
    session = None
    if terms["resumes"]:
        tls = connect(terms)
        tls.close()
        session = tls.session
    tls = connect(terms, session)
    sys.stdin.read()
    tls.close()


{"server": serve, "client": talk}[sys.argv[1]](json.loads(sys.argv[2]))
