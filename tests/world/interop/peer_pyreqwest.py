"""pyreqwest as a client; scripted.py tells how it is spoken to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyreqwest.client import SyncClientBuilder


def main() -> None:
    terms = json.loads(sys.argv[2])
    name, version = terms["name"], "TLSv" + terms["version"]
    builder = (
        SyncClientBuilder()
        .no_proxy()
        .resolve(name, "127.0.0.1", terms["port"])
        .add_root_certificate_pem(Path(terms["ca"]).read_bytes())
        .min_tls_version(version)
        .max_tls_version(version)
        .http2(True)
    )
    if terms["certificate"]:
        builder.identity_pem(Path(terms["certificate"]).read_bytes())
    with builder.build() as client:
        for _ in range(2 if terms["resumes"] else 1):
            response = client.get(f"https://{name}:{terms['port']}/hello").build().send()
            print(response.text(), flush=True)
        sys.stdin.read()


main()
