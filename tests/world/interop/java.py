"""Java's JSSE, of OpenJDK: Peer.java.

Its terms are arguments in the form name=value, and it has each certificate as PKCS #12.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import scripted
from .formats import PASSWORD, pkcs12
from .harness import Aspect, Stack, version_of

_DIRECTORY = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


_CLASS = Path(_DIRECTORY.name) / "Peer.class"


async def _java() -> tuple[object, ...]:
    return ("java", "-cp", _CLASS.parent, "Peer")


def _compile() -> None:
    if not _CLASS.exists():
        source = Path(__file__).with_name("Peer.java")
        subprocess.run(("javac", "-d", _CLASS.parent, source), check=True)


def _arguments(terms: Mapping[str, Any]) -> list[str]:
    arguments = [f"password={PASSWORD.decode()}"]
    for name, value in terms.items():
        if "certificate" in name and isinstance(value, str):
            value = pkcs12(Path(value))
        elif value is None:
            value = ""
        elif not isinstance(value, str | int):
            value = ",".join(value)
        arguments.append(f"{name}={value}")
    return arguments


# It does not tell whether a session was resumed.
_SERVER_WORDS = {
    aspect: scripted.SERVER_WORDS[aspect] for aspect in (Aspect.ALPN, Aspect.CLIENT_CERTIFICATE)
}
_CLIENT_WORDS = {Aspect.ALPN: scripted.CLIENT_WORDS[Aspect.ALPN]}

STACK = Stack(
    name="Java",
    needs="the JDK with java and javac",
    prepare=_compile,
    version=version_of("javac", "-version", pattern=r"javac (\S+)"),
    server=scripted.server(
        _java,
        encode=_arguments,
        words=_SERVER_WORDS,
        former_refusal="bad_certificate",  # in Java 17
        # sun.security.ssl.X509KeyManagerImpl: what lacks it counts as unfit, whatever its name.
        cannot={
            Aspect.SNI: "chooses an EC certificate by name only if its key usage has keyAgreement"
        },
    ),
    client=scripted.client(_java, encode=_arguments, words=_CLIENT_WORDS),
)
