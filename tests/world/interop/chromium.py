"""Chromium, with BoringSSL inside, that runs a page of a file, which asks."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .formats import PASSWORD, pkcs12
from .harness import (
    HTTP,
    Aspect,
    Client,
    ClientTerms,
    Files,
    Program,
    Stack,
    program,
    run,
    version_of,
)

# --disable-web-security lets the page read what other sites answer. It is not about TLS:
# certificates are verified.
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-proxy-server"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-extensions", "--disable-web-security", "--dump-dom"),
    "--host-resolver-rules=MAP *.example 127.0.0.1",
)

PAGE = """
<script>
for (let left = {times}; left > 0; left--) {{
    const request = new XMLHttpRequest();
    request.open("GET", "https://{name}:{port}/hello?" + left, false);
    request.send();
    document.write(request.responseText);
}}
</script>
"""

# What the policy AutoSelectCertificateForUrls would say: to take a certificate without asking.
PREFERENCES = {
    "profile": {
        "managed_auto_select_certificate_for_urls": [json.dumps({"pattern": "*", "filter": {}})]
    }
}


async def _store(files: Files, home: Path, *, has_certificate: bool) -> None:
    """Make the certificate store that Chromium looks for at home."""
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    store = ("-d", f"sql:{database}")
    await run("certutil", "-N", *store, "--empty-password")
    await run("certutil", "-A", *store, "-n", "ca", "-t", "C,,", "-i", files.ca)
    if has_certificate:
        await run("pk12util", "-i", pkcs12(files.client), *store, "-W", PASSWORD.decode())


@asynccontextmanager
async def chromium(terms: ClientTerms) -> AsyncIterator[Program]:
    # Its version of TLS is that of our server, which has only one.
    directory = Path(tempfile.mkdtemp(dir=terms.files.directory))
    home = directory / "home"
    await _store(terms.files, home, has_certificate=terms.has_certificate)
    page = directory / "page.html"
    page.write_text(PAGE.format(times=2 if terms.resumes else 1, name=terms.name, port=terms.port))
    preferences = directory / "data" / "Default" / "Preferences"
    preferences.parent.mkdir(parents=True)
    preferences.write_text(json.dumps(PREFERENCES))
    argv = ("chromium", *OPTIONS, f"--user-data-dir={directory / 'data'}", page.as_uri())
    async with program(*argv, env=os.environ | {"HOME": str(home)}) as client:
        yield client


_chromium_version = version_of("chromium", "--version", pattern=r"Chromium (\S+)")


def _version() -> str | None:
    return _chromium_version() if shutil.which("pk12util") else None


STACK = Stack(
    name="BoringSSL in Chromium",
    needs="chromium or, from NSS's tools, certutil and pk12util",
    version=_version,
    client=Client(
        run=chromium,
        speech=HTTP,
        cannot={
            Aspect.HALF_CLOSE: "never sends a close_notify",
            Aspect.TRUNCATION: "never sends a close_notify",
        },
    ),
)
