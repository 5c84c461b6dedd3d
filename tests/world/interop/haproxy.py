"""HAProxy: as a server it tells in its answer what it knows; as a client it passes lines on."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import attrs

from tests.programs import NGINX_VERSIONS, free_port

from .harness import (
    ALPN_OFFERED,
    ALPN_TAKEN,
    CLIENT,
    HTTP,
    LINES,
    OTHER_NAME,
    Aspect,
    Client,
    ClientTerms,
    Program,
    Server,
    ServerTerms,
    Stack,
    program,
    proxy,
    version_of,
)

DEFAULTS = """
global
    log stdout format raw daemon
    nbthread 1  # each has sessions of its own
defaults
    log global
    timeout connect 10s
    timeout client 20s
    timeout server 20s
"""

SERVER = """
frontend tls
    mode http
    bind 127.0.0.1:{port} ssl crt {server} crt {other} alpn {alpn} {versions} {verify}
    http-request return status 200 content-type text/plain lf-string \
"reused:%[ssl_fc_is_resumed] certificate:%[ssl_c_s_dn(CN)] ALPN:%[ssl_fc_alpn] name:%[ssl_fc_sni]"
"""

CLIENT_CONFIG = """
listen plain
    mode tcp
    bind 127.0.0.1:{port}
    server tls 127.0.0.1:{their_port} ssl verify required ca-file {ca} verifyhost {name} \
sni str({name}) alpn {alpn} {versions} {certificate}
"""


def server(terms: ServerTerms) -> AbstractAsyncContextManager[Program]:
    files = terms.files
    port = free_port()
    version = NGINX_VERSIONS[terms.version]
    config = SERVER.format(
        port=port,
        server=files.server,
        other=files.other,
        alpn=ALPN_TAKEN,
        versions=f"ssl-min-ver {version} ssl-max-ver {version}",
        verify=f"verify required ca-file {files.ca}" if terms.asks_certificate else "",
    )
    argv = ("haproxy", "-db", "-f", files.write("haproxy.cfg", DEFAULTS + config))
    return program(*argv, port=port)


def client(terms: ClientTerms) -> AbstractAsyncContextManager[Program]:
    files = terms.files
    port = free_port()
    version = NGINX_VERSIONS[terms.version]
    config = CLIENT_CONFIG.format(
        port=port,
        their_port=terms.port,
        ca=files.ca,
        name=terms.name,
        alpn=",".join(ALPN_OFFERED),
        versions=f"ssl-min-ver {version} ssl-max-ver {version}",
        certificate=f"crt {files.client}" if terms.has_certificate else "",
    )
    argv = ("haproxy", "-db", "-f", files.write("haproxy.cfg", DEFAULTS + config))
    return proxy(terms, port, LINES, *argv)


STACK = Stack(
    name="HAProxy",
    needs="the program haproxy",
    version=version_of("haproxy", "-v", pattern=r"version ([^- ]+)"),
    server=Server(
        run=server,
        speech=attrs.evolve(HTTP, answer=b"HTTP/1.1 200 OK"),
        words={
            Aspect.RESUMED: b"reused:1",
            Aspect.CLIENT_CERTIFICATE: f"certificate:{CLIENT}".encode(),
            Aspect.ALPN: f"ALPN:{ALPN_TAKEN}".encode(),
            Aspect.SNI: f"name:{OTHER_NAME}".encode(),
        },
    ),
    client=Client(
        run=client,
        speech=LINES,
    ),
)
