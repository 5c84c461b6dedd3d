"""Options that several commands share."""

from __future__ import annotations

import argparse
import math
import ssl
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import NoReturn, TypeAlias

from trio_tlsbio import TLSConnection
from trio_tlsbio._core.errors import printable

from ._status import MEANINGS, Failure, Status

__all__ = [
    "STATUSES",
    "Commands",
    "Parser",
    "add_command",
    "add_version_options",
    "address",
    "duration",
    "existing_file",
    "host_name",
    "positive_number",
    "positive_seconds",
    "protocol_list",
    "unusable",
    "usage_error",
]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The type of the result of ``add_subparsers()``, to which the commands are added."""

STATUSES = "exit status:\n" + "\n".join(
    f"  {status:>3}  {words}" for status, words in MEANINGS.items()
)
"""The end of the help of every command."""


class Parser(argparse.ArgumentParser):
    """Reports usage errors in two lines. argparse would print all options first."""

    def error(self, message: str) -> NoReturn:
        """Exit with a usage error."""
        hint = f"{self.prog} --help shows the usage"
        program = self.prog.split()[0]
        lines = f"{self.prog}: {printable(message)}", f"{'hint':>{len(program)}}: {hint}"
        self.exit(int(Status.USAGE), "\n".join(lines) + "\n")


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], Awaitable[Status]],
    *,
    summary: str,
    description: str,
    notes: str = "",
) -> argparse.ArgumentParser:
    """Add a command that calls ``run``, and return its parser for the arguments."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=notes + STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def add_version_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that restrict TLS to one version."""
    version = parser.add_mutually_exclusive_group()
    version.add_argument(
        "--tls12",
        dest="version",
        action="store_const",
        const=ssl.TLSVersion.TLSv1_2,
        help="speak TLS 1.2 only",
    )
    version.add_argument(
        "--tls13",
        dest="version",
        action="store_const",
        const=ssl.TLSVersion.TLSv1_3,
        help="speak TLS 1.3 only",
    )


def usage_error(message: str) -> NoReturn:
    """Report a usage error that argparse can't detect."""
    raise Failure(Status.USAGE, message)


def unusable(option: str, path: str, expected: str, exc: OSError) -> NoReturn:
    """Report what is wrong with a file, because OpenSSL's messages are not meant for users."""
    if not isinstance(exc, ssl.SSLError):
        why = exc.strerror or str(exc)
    elif exc.reason == "KEY_VALUES_MISMATCH":
        why = "the private key belongs to another certificate"
    elif exc.reason in {"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"}:
        why = "a key, or the hash of a signature, is too weak for OpenSSL's security level"
    else:
        why = f"no {expected} in PEM form was found"
    usage_error(f"{option} {path}: {why}")


def host_name(text: str) -> str:
    """Check a name as the library would."""
    try:
        TLSConnection(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), server_hostname=text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not a host name or IP address") from exc
    return text


def address(text: str) -> tuple[str, int | None]:
    """Parse a host and a port, or a URL that contains only these."""
    if text[:8].lower() == "https://":
        text = text[8:].removesuffix("/")
    if "/" in text or "?" in text or "#" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give HOST, HOST:PORT or https://HOST:PORT, without a path"
        )
    if text.startswith("["):  # [::1] or [::1]:443
        host, _, rest = text[1:].partition("]")
        colon, port = (rest[0], rest[1:]) if rest else (":", None)
    elif text.count(":") > 1:  # an IPv6 address without brackets
        host, colon, port = text, ":", None
    else:
        host, colon, rest = text.partition(":")
        colon, port = ":", rest if colon else None
    if port is None:
        return host_name(host), None
    if colon != ":" or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r}: the port must be a number from 1 to 65535")
    return host_name(host), int(port)


def existing_file(text: str) -> str:
    """Check that a file exists."""
    try:
        Path(text).stat()
    except OSError as exc:
        raise argparse.ArgumentTypeError(f"{text}: {exc.strerror}") from exc
    return text


def protocol_list(text: str) -> list[str]:
    """Split a list of ALPN protocols."""
    protocols = text.split(",")
    if not all(protocol.isascii() and 0 < len(protocol) < 256 for protocol in protocols):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as h2,http/1.1")
    return protocols


def positive_seconds(text: str) -> float:
    """Parse a duration in seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


_UNITS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60, "w": 7 * 24 * 60 * 60}


def duration(text: str) -> timedelta:
    """Parse a duration with its unit."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and len(number) < 10 and unit in _UNITS):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number and a unit (s, m, h, d or w), such as 14d"
        )
    try:
        return timedelta(seconds=int(number) * _UNITS[unit])
    except OverflowError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is too long") from exc


def positive_number(text: str) -> int:
    """Parse a number of repetitions."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 100_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100000")
    return int(text)
