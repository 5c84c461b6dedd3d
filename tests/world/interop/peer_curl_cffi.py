"""curl_cffi as a client; scripted.py tells how it is spoken to."""

from __future__ import annotations

import json
import sys

from curl_cffi import CurlOpt, CurlSslVersion, Session


def main() -> None:
    terms = json.loads(sys.argv[2])
    name, port = terms["name"], terms["port"]
    version = {"1.2": CurlSslVersion.TLSv1_2, "1.3": CurlSslVersion.TLSv1_3}[terms["version"]]
    with Session(
        verify=terms["ca"],
        cert=terms["certificate"],
        curl_options={
            CurlOpt.RESOLVE: [f"{name}:{port}:127.0.0.1"],
            CurlOpt.NOPROXY: "*",
            CurlOpt.SSLVERSION: version | version << 16,
        },
    ) as session:
        for _ in range(2 if terms["resumes"] else 1):
            print(session.get(f"https://{name}:{port}/hello").text, flush=True)
        sys.stdin.read()


main()
