"""Converts OpenSSL's names of cipher suites to those of IANA."""

from __future__ import annotations

import re

__all__ = ["iana_name_of"]

# OpenSSL omits the former defaults: RSA, and cipher block chaining.
_KEY_EXCHANGES = {"": "RSA", "ADH": "DH_anon", "AECDH": "ECDH_anon", "ECDHE": "ECDHE_RSA"}
_KEY_EXCHANGE = re.compile(
    r"(?:(?P<exchange>ADH|AECDH|SRP|PSK|(?:ECDHE|DHE|RSA)(?:-(?:ECDSA|RSA|DSS|PSK))?)-)?"
    r"(?P<cipher>.+)"
)
_CIPHER = re.compile(r"(AES|ARIA|CAMELLIA)(128|256)(?:-(SHA(?:256|384)?))?")


def iana_name_of(cipher: str) -> str:
    """Return the description of a cipher suite in IANA's registry "TLS Cipher Suites".

    In TLS 1.3, OpenSSL uses the same names; its TLS 1.2 names follow rules.
    """
    if cipher.startswith("TLS_"):
        return cipher
    match = _KEY_EXCHANGE.fullmatch(cipher)
    assert match is not None
    exchange = match["exchange"] or ""
    rest = match["cipher"]
    if exchange == "SRP":  # its names state an authentication only if there is one
        name, rest = _of_srp(rest)
    else:
        name = _KEY_EXCHANGES.get(exchange, exchange.replace("-", "_"))
    rest = _CIPHER.sub(_in_full, rest)
    if rest == "CHACHA20-POLY1305":
        rest += "-SHA256"
    rest = rest.replace("DES-CBC3", "3DES-EDE-CBC").replace("SEED-SHA", "SEED-CBC-SHA")
    rest = rest.replace("CCM8", "CCM-8").replace("-", "_")
    if name == "DHE_PSK" and rest.endswith("CCM_8"):
        name = "PSK_DHE"  # the name in RFC 6655
    return f"TLS_{name}_WITH_{rest}"


def _of_srp(rest: str) -> tuple[str, str]:
    authentication, _, cipher = rest.partition("-")
    if authentication in {"RSA", "DSS"}:
        return f"SRP_SHA_{authentication}", cipher
    return "SRP_SHA", rest


def _in_full(match: re.Match[str]) -> str:
    cipher, bits, digest = match.groups()
    return f"{cipher}-{bits}" + (f"-CBC-{digest}" if digest else "")
