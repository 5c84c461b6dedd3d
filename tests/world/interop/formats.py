"""Keys and certificates in the forms that some programs want."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12 as pkcs12_format

# Some can't open PKCS #12 without one.
PASSWORD = b"secret"


def pkcs12(pem: Path, name: str | None = None) -> Path:
    """The key and the certificate of a PEM file as PKCS #12, beside it, with PASSWORD.

    Programs know them by ``name``, which is that of the file by default.
    """
    data = pem.read_bytes()
    path = pem.with_suffix(".p12")
    path.write_bytes(
        pkcs12_format.serialize_key_and_certificates(
            (name or pem.stem).encode(),
            serialization.load_pem_private_key(data, None),  # type: ignore[arg-type]
            x509.load_pem_x509_certificate(data),
            None,
            serialization.BestAvailableEncryption(PASSWORD),
        )
    )
    return path


def pkcs8(pem: Path) -> Path:
    """The key of a PEM file as PKCS #8, beside it."""
    key = serialization.load_pem_private_key(pem.read_bytes(), None)
    path = pem.with_suffix(".key")
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path
