"""What ``connect`` says before TLS: ``--starttls``, the dialogues by themselves and with servers
that misbehave, and ``--proxy-header``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import ip_address
from typing import Any

import pytest
import trio

from tests.commands import Files, document, refused, run_here
from trio_tlsbio.cli._proxy import VERSIONS, header_for
from trio_tlsbio.cli._starttls import PORTS, Dialogue
from trio_tlsbio.cli._status import Failure, Status, hint_for
from trio_tlsbio.proxy_protocol import ProxyCommand, ProxyHeaderReader

from .peers import plain_server

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"

# MySQL: a header, the greeting up to what the server is capable of, and the rest; and the answer.
MYSQL_START = b"\x0a8.4.0\0" + bytes(4) + b"challeng" + b"\0"
MYSQL_GREETING = MYSQL_START + b"\xff\xff" + b"\xff\x02\0\xff\xdf\x15" + bytes(10) + b"more\0"
SSL_PACKET = b"\x20\0\0\x01" + b"\0\x8a\0\0" + b"\0\0\0\x01" + b"\x21" + bytes(23)

STARTTLS_OID = b"1.3.6.1.4.1.1466.20037"
LDAP_REQUEST = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x16" + STARTTLS_OID

XMPP_TLS = b"urn:ietf:params:xml:ns:xmpp-tls"
XMPP_GREETING = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' "
    b"xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='localhost'>"
)
XMPP_STREAM = b"<?xml version='1.0'?><stream:stream from='localhost' id='1' version='1.0'>"
XMPP_START = b"<starttls xmlns='" + XMPP_TLS + b"'/>"


def packet(payload: bytes) -> bytes:
    """One of MySQL's, the first of the server's."""
    return len(payload).to_bytes(3, "little") + b"\0" + payload


def ldap(result: int = 0, words: bytes = b"", *, number: int = 1, tag: int = 0x78) -> bytes:
    """An answer of LDAP."""
    content = b"\x0a\x01" + bytes([result]) + b"\x04\0" + b"\x04" + bytes([len(words)]) + words
    message = b"\x02\x01" + bytes([number, tag, len(content)]) + content
    return b"\x30" + bytes([len(message)]) + message


# What a server says, and what it waits for (a line, or the request), until TLS begins.
TALKS: dict[str, list[bytes]] = {
    "smtp": [
        b"220-mail.example\r\n220 ready\r\n",
        b"EHLO [127.0.0.1]\r\n",
        b"250-mail.example\r\n250-SIZE 1000\r\n250 StartTLS\r\n",
        b"STARTTLS\r\n",
        b"220 go ahead\r\n",
    ],
    "imap": [
        b"* OK [CAPABILITY IMAP4rev2] ready\r\n",
        b"a1 CAPABILITY\r\n",
        b"* CAPABILITY IMAP4rev2 STARTTLS LOGINDISABLED\r\na1 OK done\r\n",
        b"a2 STARTTLS\r\n",
        b"a2 OK begin\r\n",
    ],
    "pop3": [
        b"+OK ready\r\n",
        b"CAPA\r\n",
        b"+OK\r\nTOP\r\nSTLS\r\n.\r\n",
        b"STLS\r\n",
        b"+OK begin\r\n",
    ],
    "postgres": [b"", SSL_REQUEST, b"S"],
    "mysql": [packet(MYSQL_GREETING), SSL_PACKET],
    "ldap": [b"", LDAP_REQUEST, ldap()],
    "xmpp": [
        b"",
        XMPP_GREETING,
        XMPP_STREAM
        + b"<stream:features>\n<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/>"
        + b"</starttls><mechanisms><mechanism>PLAIN</mechanism></mechanisms></stream:features>",
        XMPP_START,
        b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
    ],
}


################################################################
# The dialogues
################################################################


def talk(
    protocol: str, talk: list[bytes], step: int = 1000, address: str = "127.0.0.1"
) -> Dialogue:
    """Hold a dialogue: what is at odd places is expected from the client."""
    dialogue = Dialogue.of(protocol, address, "localhost")
    sent = dialogue.data_to_send()
    for index, data in enumerate(talk):
        if index % 2:
            assert sent == data
        else:
            sent = b"" if data else sent
            for start in range(0, len(data), step):
                assert not sent
                dialogue.feed(data[start : start + step])
                sent = dialogue.data_to_send()
    return dialogue


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("protocol", PORTS)
def test_dialogue(protocol: str, step: int) -> None:
    dialogue = talk(protocol, TALKS[protocol], step)
    assert dialogue.is_done
    assert dialogue.buffered == b""


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("change", [bytes.lower, bytes.upper, bytes.swapcase])
@pytest.mark.parametrize("protocol", ["smtp", "imap", "pop3"])
def test_answers_in_upper_or_lower_case(
    protocol: str, change: Callable[[bytes], bytes], end: bytes, step: int
) -> None:
    steps = [
        data if index % 2 else change(data).replace(b"\r\n", end)
        for index, data in enumerate(TALKS[protocol])
    ]
    dialogue = talk(protocol, steps, step)
    assert dialogue.is_done
    assert dialogue.buffered == b""


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize(
    ("protocol", "steps"),
    [
        ("smtp", {0: b"220-one\r\n220-\r\n220\r\n", 4: b"220-go\r\n220 ahead\r\n"}),
        ("smtp", {2: b"250-mail\r\n250-STARTTLS with words\r\n250 SIZE\r\n"}),
        ("imap", {4: b"* OK a moment\r\n* 3 EXISTS\r\n*\r\na2 OK begin\r\n"}),
        ("imap", {2: b"* CAPABILITY A\r\n* ok\r\n* CAPABILITY STARTTLS\r\na1 OK\r\n"}),
        ("xmpp", {4: b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'></proceed>"}),
        ("xmpp", {2: XMPP_STREAM + b"<f:features>" + XMPP_START + b"</f:features>"}),
        ("ldap", {2: b"\x30\x84\0\0\0\x0c" + ldap()[2:]}),
        ("pop3", {2: b"+OK list\r\nSTLS\r\n\r\nEXPIRE 60\r\n.\r\n"}),
    ],
)
def test_answers_of_several_lines(protocol: str, steps: dict[int, bytes], step: int) -> None:
    answers = [steps.get(index, data) for index, data in enumerate(TALKS[protocol])]
    assert talk(protocol, answers, step).is_done


@pytest.mark.parametrize("protocol", PORTS)
def test_what_comes_too_early_is_told(protocol: str) -> None:
    steps = list(TALKS[protocol])
    last = (len(steps) - 1) // 2 * 2  # MySQL's client has the last word
    steps[last] += b"injected\r\n"
    dialogue = talk(protocol, steps)
    assert dialogue.is_done
    assert dialogue.buffered == b"injected\r\n"


def test_address_literal_of_ipv6() -> None:
    for address in ("::1", "::1%eth0"):
        talk("smtp", [b"220 ready\r\n", b"EHLO [IPv6:::1]\r\n"], address=address)


def test_pop3_without_capabilities() -> None:
    steps = [b"+OK\r\n", b"CAPA\r\n", b"-ERR what?\r\n", b"STLS\r\n", b"+OK\r\n"]
    assert talk("pop3", steps).is_done


@pytest.mark.parametrize(
    ("protocol", "steps", "words"),
    [
        ("smtp", [b"554 go away\r\n"], "the server refused the connection: 554 go away"),
        ("smtp", [*TALKS["smtp"][:2], b"500 what?\r\n"], "refused EHLO: 500 what?"),
        (
            "smtp",
            [*TALKS["smtp"][:2], b"250-mail\r\n250 XSTARTTLS\r\n"],
            "does not offer STARTTLS",
        ),
        ("smtp", [*TALKS["smtp"][:2], b"250 STARTTLS\r\n"], "does not offer STARTTLS"),
        ("smtp", [*TALKS["smtp"][:4], b"454 no\r\n"], "the server refused STARTTLS: 454 no"),
        ("imap", [b"* BYE too busy\r\n"], "refused the connection: * BYE too busy"),
        ("imap", [b"* bye too busy\r\n"], "refused the connection: * bye too busy"),
        ("imap", [b"* OKAY\r\n"], "refused the connection: * OKAY"),
        ("imap", [b"* PREAUTH hello\r\n"], "logged us in already"),
        ("imap", [b"* preauth hello\r\n"], "logged us in already"),
        ("imap", [*TALKS["imap"][:4], b"* BYE too busy\r\n"], "refused STARTTLS: * BYE too busy"),
        ("imap", [*TALKS["imap"][:4], b"a1 OK\r\n"], "refused STARTTLS: a1 OK"),
        (
            "imap",
            [*TALKS["imap"][:2], b"* CAPABILITY IMAP4rev2\r\na1 OK\r\n"],
            "does not offer STARTTLS",
        ),
        ("imap", [*TALKS["imap"][:2], b"a1 BAD what?\r\n"], "refused CAPABILITY: a1 BAD what?"),
        ("imap", [*TALKS["imap"][:4], b"a2 NO\r\n"], "refused STARTTLS: a2 NO"),
        ("pop3", [b"-ERR locked\r\n"], "refused the connection: -ERR locked"),
        ("pop3", [*TALKS["pop3"][:2], b"+OK\r\nTOP\r\n.\r\n"], "does not offer STLS"),
        ("pop3", [*TALKS["pop3"][:4], b"-ERR\r\n"], "refused STLS: -ERR"),
        ("pop3", [*TALKS["pop3"][:4], b"-err\r\n"], "refused STLS: -err"),
        ("pop3", [*TALKS["pop3"][:4], b"\r\n"], "refused STLS: (nothing)"),
        ("postgres", [b"", SSL_REQUEST, b"N"], "does not offer TLS"),
        ("postgres", [b"", SSL_REQUEST, b"E"], "is it PostgreSQL?"),
        (
            "mysql",
            [packet(b"\xff\x69\x04Host is blocked")],
            "refused the connection: Host is blocked",
        ),
        ("mysql", [packet(MYSQL_START + b"\xff\xf7" + bytes(30))], "does not offer TLS"),
        ("mysql", [packet(b"\x09" + MYSQL_GREETING[1:])], "is it MySQL?"),
        ("mysql", [packet(MYSQL_START + b"\xff")], "is it MySQL?"),
        ("mysql", [packet(b"\x0a8.4.0")], "is it MySQL?"),
        ("mysql", [b"\0\0\0\0"], "a packet of 0 bytes: is it MySQL?"),
        ("mysql", [b"SSH-2.0-OpenSSH"], "bytes: is it MySQL?"),
        ("ldap", [b"", LDAP_REQUEST, ldap(2, b"what?")], "does not offer StartTLS"),
        ("ldap", [b"", LDAP_REQUEST, ldap(52, b"busy")], "refused StartTLS: result 52 busy"),
        ("ldap", [b"", LDAP_REQUEST, ldap(52, b"bye", number=0)], "refused the connection: bye"),
        ("ldap", [b"", LDAP_REQUEST, ldap(tag=0x61)], "did not answer a StartTLS request"),
        ("ldap", [b"", LDAP_REQUEST, b"\x30\x02\x02\x7f"], "did not answer a StartTLS request"),
        ("ldap", [b"", LDAP_REQUEST, b"HT"], "is it LDAP?"),
        ("ldap", [b"", LDAP_REQUEST, b"\x30\x80"], "is it LDAP?"),
        ("ldap", [b"", LDAP_REQUEST, b"\x30\x84\xff\xff\xff\xff"], "bytes: is it LDAP?"),
        (
            "xmpp",
            [b"", XMPP_GREETING, XMPP_STREAM + b"<stream:error><host-unknown/></stream:error>"],
            "refused STARTTLS: host-unknown",
        ),
        (
            "xmpp",
            [
                b"",
                XMPP_GREETING,
                XMPP_STREAM + b"<stream:error><policy-violation xmlns='x'/>"
                b"<text xml:lang='en'>A &amp; B</text></stream:error></stream:stream>",
            ],
            "refused STARTTLS: policy-violation, A & B",
        ),
        (
            "xmpp",
            [b"", XMPP_GREETING, XMPP_STREAM + b"<stream:features/>"],
            "does not offer STARTTLS",
        ),
        (
            "xmpp",
            [b"", XMPP_GREETING, XMPP_STREAM + b"<features><starttls/></features>"],
            "does not offer STARTTLS",
        ),
        ("xmpp", [b"", XMPP_GREETING, XMPP_STREAM + b"</stream:stream>"], "</stream:stream>"),
        ("xmpp", [b"", XMPP_GREETING, b"<html>"], "is it XMPP?"),
        ("xmpp", [b"", XMPP_GREETING, b"200 >"], "is it XMPP?"),
        ("xmpp", [*TALKS["xmpp"][:4], b"<failure xmlns='x'/>"], "refused STARTTLS: <failure"),
        ("xmpp", [*TALKS["xmpp"][:4], b"<stream:features/>"], "refused STARTTLS: <stream:features"),
        ("smtp", [b"x" * 8193], "a line of more than 8192 bytes"),
        ("smtp", [b"220-" + b"x" * 8189 + b"\r\n"], "a line of more than 8192 bytes"),
        ("smtp", [b"220-hello\r\n" * 6000], "more than 65536 bytes before TLS"),
        ("imap", [*TALKS["imap"][:2], b"* still\r\n" * 8000], "more than 65536 bytes before TLS"),
    ],
)
def test_dialogues_that_fail(protocol: str, steps: list[bytes], words: str) -> None:
    with pytest.raises(Failure) as caught:
        talk(protocol, steps, 4096)
    assert words in str(caught.value)
    assert caught.value.status is Status.TLS_FAILED


def test_a_domain_that_the_server_does_not_know() -> None:
    error = b"<stream:error><host-unknown/></stream:error>"
    with pytest.raises(Failure) as caught:
        talk("xmpp", [b"", XMPP_GREETING, XMPP_STREAM + error])
    assert "--servername" in (hint_for(caught.value) or "")


@pytest.mark.parametrize("protocol", PORTS)
def test_end_in_the_midst(protocol: str) -> None:
    dialogue = talk(protocol, [] if protocol == "mysql" else TALKS[protocol][:2])
    with pytest.raises(Failure, match="ended the connection before TLS") as caught:
        dialogue.feed(b"")
    assert caught.value.status is Status.TRUNCATED


################################################################
# The command, with servers that misbehave
################################################################


def says(*parts: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """Say one thing after the other, each before a line of the client, and wait for the end."""

    async def handler(stream: trio.SocketStream) -> None:
        for part in parts:
            await stream.send_all(part)
            await stream.receive_some()
        async for _ in stream:
            pass

    return handler


async def test_command_injection_is_refused(
    files: Files, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run = partial(run_here, capfdbinary)
    steps = TALKS["smtp"]
    injected = says(steps[0], steps[2], steps[4] + b"250 all is well\r\n")
    async with plain_server(injected) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", files.ca, "--starttls", "smtp")
        message = refused(await run(*connect), 4)
        assert "17 bytes in plaintext where TLS was to begin" in message
        value = document(await run(*connect, "--json"))
    assert value["error"]["message"] == message
    assert value["connections"][0]["starttls_seconds"] > 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("192.0.2.1", 50_000), ("192.0.2.2", 443)),
        (("fe80::1%eth0", 50_000, 0, 2), ("2001:db8::2", 443, 0, 0)),
    ],
)
def test_proxy_header(version: str, ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> None:
    header = ProxyHeaderReader().feed(header_for(version, ours, theirs))
    assert header is not None
    assert f"v{header.version}" == version
    assert header.command is ProxyCommand.PROXY
    assert header.source == (ip_address(ours[0].partition("%")[0]), ours[1])
    assert header.destination == (ip_address(theirs[0]), theirs[1])


async def test_a_proxy_header_comes_first(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    received = bytearray()

    async def handler(stream: trio.SocketStream) -> None:
        async for data in stream:
            received.extend(data)
            if received.endswith(b"\x2f"):  # an SSLRequest is there
                await stream.send_all(b"N")

    async with plain_server(handler) as port:
        connect = ("connect", f"127.0.0.1:{port}", "--starttls", "postgres")
        result = await run_here(capfdbinary, *connect, "--proxy-header", "v1")
    assert refused(result, 4) == "the server does not offer TLS"
    line, _, rest = bytes(received).partition(b"\r\n")
    assert line.startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
    assert line.endswith(b" %d" % port)
    assert rest == SSL_REQUEST


async def test_not_offered(files: Files, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async with plain_server(says(b"220 mail\r\n", b"250 mail\r\n")) as port:
        result = await run_here(capfdbinary, "connect", f"localhost:{port}", "--starttls", "smtp")
    assert refused(result, 4) == "the server does not offer STARTTLS"


@pytest.mark.parametrize("protocol", PORTS)
async def test_silence_and_end(protocol: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async def leave(stream: trio.SocketStream) -> None:
        pass

    async with plain_server(says()) as port:
        connect = ("connect", f"127.0.0.1:{port}", "--starttls", protocol)
        result = await run_here(capfdbinary, *connect, "--timeout", "0.2")
        assert "TLS was not ready within 0.2 seconds" in refused(result, 5)
    async with plain_server(leave) as port:
        connect = ("connect", f"127.0.0.1:{port}", "--starttls", protocol)
        result = await run_here(capfdbinary, *connect)
        assert "before TLS could begin" in refused(result, 6)
