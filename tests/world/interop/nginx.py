"""nginx: as a server it tells in its answer what it knows; as a client it is a proxy for HTTP."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import attrs

from tests.helpers import NAME
from tests.programs import NGINX_VERSIONS, free_port, nginx_argv

from .harness import (
    ALPN_TAKEN,
    CLIENT,
    HTTP,
    OTHER_NAME,
    VERSIONS,
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

SERVER = """
    server {{
        listen 127.0.0.1:{port} ssl;
        server_name {name};
        ssl_certificate {pem};
        ssl_certificate_key {pem};
        ssl_protocols {version};
        ssl_client_certificate {ca};
        ssl_verify_client {verify};
        return 200 "reused:$ssl_session_reused certificate:$ssl_client_s_dn
            ALPN:$ssl_alpn_protocol name:$ssl_server_name protocol:$ssl_protocol";
    }}
"""

PROXY = """
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass https://127.0.0.1:{their_port};
            proxy_ssl_protocols {version};
            proxy_ssl_server_name on;
            proxy_ssl_name {name};
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {ca};
            proxy_ssl_session_reuse on;
            {certificate}
        }}
    }}
"""


def server(terms: ServerTerms) -> AbstractAsyncContextManager[Program]:
    files = terms.files
    port = free_port()
    servers = [
        SERVER.format(
            port=port,
            name=name,
            pem=pem,
            ca=files.ca,
            version=NGINX_VERSIONS[terms.version],
            verify="on" if terms.asks_certificate else "off",
        )
        for name, pem in ((NAME, files.server), (OTHER_NAME, files.other))
    ]
    argv = nginx_argv(files.directory, "".join(servers))
    return program(*argv, port=port)


def client(terms: ClientTerms) -> AbstractAsyncContextManager[Program]:
    files = terms.files
    port = free_port()
    certificate = f"proxy_ssl_certificate {files.client}; proxy_ssl_certificate_key {files.client};"
    config = PROXY.format(
        port=port,
        their_port=terms.port,
        version=NGINX_VERSIONS[terms.version],
        name=terms.name,
        ca=files.ca,
        certificate=certificate if terms.has_certificate else "",
    )
    argv = nginx_argv(files.directory, config)
    return proxy(terms, port, HTTP, *argv)


STACK = Stack(
    name="nginx",
    needs="the program nginx",
    version=version_of("nginx", "-v", pattern=r"nginx/(\S+)"),
    server=Server(
        run=server,
        speech=attrs.evolve(HTTP, answer=b"HTTP/1.1 200 OK"),
        # It asks for a certificate, and speaks of it in HTTP.
        # ngx_ssl_handle_recv() sets no_send_shutdown when it has got a close_notify.
        cut_after_our_end="answers, but sends no close_notify after it has got one",
        refusals=dict.fromkeys(VERSIONS, b"400 No required SSL certificate was sent"),
        words={
            Aspect.RESUMED: b"reused:r",
            Aspect.CLIENT_CERTIFICATE: f"CN={CLIENT}".encode(),
            Aspect.ALPN: f"ALPN:{ALPN_TAKEN}".encode(),
            Aspect.SNI: f"name:{OTHER_NAME}".encode(),
        },
    ),
    client=Client(
        run=client,
        speech=HTTP,
        cannot={
            Aspect.ALPN: "its proxy offers no protocol",
            Aspect.HALF_CLOSE: "its proxy ends when it has the answer",
        },
    ),
)
