"""What ``serve --directory`` answers: paths, redirects, listings, ranges."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path

import pytest

from trio_tlsbio.cli._http import Part, Site

from .peers import Reply


def answer(
    folder: Path, target: str, asked: Mapping[str, str] | None = None, method: str = "GET"
) -> Reply:
    """Return the answer to a request, read from its file."""
    found = Site(folder).answer(method, target, asked or {})
    body = found.body
    if isinstance(body, Part):
        os.lseek(body.file.fileno(), body.span.start, os.SEEK_SET)
        body = os.read(body.file.fileno(), len(body.span))
    assert len(body) == found.length
    found.close()
    return Reply(found.status, {name.lower(): text for name, text in found.headers}, body)


@pytest.mark.parametrize(
    "target",
    [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/sub/../hello.txt",
        "/%2e%2e/secret.txt",
        "/%2E./secret.txt",
        "/..%2fsecret.txt",
        "/..%2Fsecret.txt",
        "/sub%2f..%2f..%2fsecret.txt",
        "/sub%2fa&b.tar.gz",
        "http://h/../secret.txt",
        "/hello.txt%00",
        "/%00",
        "/hello.txt%00/../../secret.txt",
        "/%252e%252e/secret.txt",
        "/\\..\\secret.txt",
        "/link/secret.txt",
        "/file-link",
        "/linked%20index/",
        "/loop",
        "/" + "x" * 300,
        "/hello.txt/",
        "/hello.txt/x",
        "/%ff",
    ],
)
def test_nothing_but_what_is_inside(target: str, site: Path) -> None:
    (site / "link").symlink_to("..")
    (site / "file-link").symlink_to(site.parent / "secret.txt")
    (site / "loop").symlink_to("loop")
    (site / "linked index").mkdir()
    (site / "linked index" / "index.html").symlink_to("../../secret.txt")
    reply = answer(site, target)
    assert reply.status == 404
    assert reply.body == b"404 Not Found\n"


def test_absolute_paths_stay_inside(site: Path) -> None:
    assert answer(site, f"/{site.parent}/secret.txt").status == 404
    assert answer(site, f"//{site.parent}/secret.txt").status == 404


def test_links_inside_are_followed(site: Path) -> None:
    (site / "link").symlink_to("hello.txt")
    (site / "folder").symlink_to("with index")
    assert answer(site, "/link").body == b"0123456789"
    assert answer(site, "/folder/").body == b"<p>an index\n"


def test_directory_that_is_a_link_itself(site: Path, tmp_path: Path) -> None:
    current, other = tmp_path / "current", tmp_path / "other"
    current.symlink_to(site)
    other.mkdir()
    (other / "hello.txt").write_text("other")
    assert answer(current, "/hello.txt").body == b"0123456789"
    current.unlink()
    current.symlink_to(other)
    assert answer(current, "/hello.txt").body == b"other"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_what_is_no_file(site: Path) -> None:
    os.mkfifo(site / "pipe")
    assert answer(site, "/pipe").status == 404


@pytest.mark.parametrize(
    ("number", "status"), [(errno.EACCES, 404), (errno.EMFILE, 500), (errno.EIO, 500)]
)
def test_file_that_can_not_be_opened(
    number: int, status: int, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("trio_tlsbio.cli._http.io.FileIO", fail)
    assert answer(site, "/hello.txt").status == status


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/sub", "/sub/"),
        ("/sub?a=/b", "/sub/?a=/b"),
        ("/with%20index", "/with%20index/"),
        ("//sub", "/sub/"),
        ("/.//sub/.", "/sub/"),
        ("/.", "/"),
        ("http://h/sub", "/sub/"),
    ],
)
def test_redirects(target: str, location: str, site: Path) -> None:
    reply = answer(site, target)
    assert (reply.status, reply.headers["location"]) == (301, location)


def test_redirect_leads_to_no_other_host(site: Path) -> None:
    (site / "evil.example").mkdir()
    assert answer(site, "//evil.example").headers["location"] == "/evil.example/"


@pytest.mark.parametrize("target", ["/with%20index/", "/with%20index/?q", "/./with%20index//"])
def test_index(target: str, site: Path) -> None:
    reply = answer(site, target)
    assert (reply.status, reply.body) == (200, b"<p>an index\n")
    assert reply.headers["content-type"] == "text/html"


@pytest.mark.parametrize("target", ["/", "http://h", "http://h?q", "HTTPS://h/"])
def test_listing(target: str, site: Path) -> None:
    reply = answer(site, target)
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    text = reply.body.decode()
    assert [line for line in text.splitlines() if line.startswith("<li>")] == [
        '<li><a href="./empty.bin">empty.bin</a></li>',
        '<li><a href="./hello.txt">hello.txt</a></li>',
        '<li><a href="./sub/">sub/</a></li>',
        '<li><a href="./with%20index/">with index/</a></li>',
    ]


def test_listing_is_escaped(site: Path) -> None:
    folder = site / "<b>&"
    folder.mkdir()
    for name in ("<script>x", "javascript:x", 'quo"te', "50%", "caf\xe9", os.fsdecode(b"\xff")):
        (folder / name).touch()
    text = answer(site, "/%3Cb%3E&/").body.decode()
    assert "<h1>/&lt;b&gt;&amp;/</h1>" in text
    assert '<a href="../">../</a>' in text
    assert '<a href="./%3Cscript%3Ex">&lt;script&gt;x</a>' in text
    assert '<a href="./javascript%3Ax">javascript:x</a>' in text
    assert '<a href="./quo%22te">quo&quot;te</a>' in text
    assert '<a href="./50%25">50%</a>' in text
    assert '<a href="./caf%C3%A9">caf\xe9</a>' in text
    assert '<a href="./%FF">?</a>' in text
    assert answer(site, "/%3Cb%3E&/%ff").status == 200


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html"),
        ("a.png", "image/png"),
        ("a.tar.gz", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("data:text,x", "application/octet-stream"),
    ],
)
def test_content_types(name: str, kind: str, site: Path) -> None:
    (site / name).touch()
    assert answer(site, f"/{name}").headers["content-type"] == kind


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_unchanged(method: str, site: Path) -> None:
    os.utime(site / "hello.txt", (1_000_000_000, 1_000_000_000.75))
    whole = answer(site, "/hello.txt", method=method)
    etag = whole.headers["etag"]
    modified = whole.headers["last-modified"]
    assert modified == "Sun, 09 Sep 2001 01:46:40 GMT"

    def status(**asked: str) -> int:
        headers = {name.replace("_", "-"): value for name, value in asked.items()}
        reply = answer(site, "/hello.txt", headers, method)
        if reply.status == 304:
            assert reply.headers == {"etag": etag, "last-modified": modified}
            assert reply.body == b""
        return reply.status

    assert status(if_none_match=etag) == 304
    assert status(if_none_match=f'"other", W/{etag}') == 304
    assert status(if_none_match="*") == 304
    assert status(if_none_match='"other"') == 200
    assert status(if_modified_since=modified) == 304
    assert status(if_modified_since="Sun, 09 Sep 2001 01:46:39 GMT") == 200
    assert status(if_modified_since="Sun, 09 Sep 2001 03:46:40 +0200") == 304
    assert status(if_modified_since="yesterday") == 200
    assert status(if_modified_since="Sun, 09 Sep 99999 01:46:40 GMT") == 200
    assert status(if_modified_since="Sun, 09 Sep 2001 01:46:40 +9999999999999999999") == 200
    # The ETag counts alone if it is there.
    assert status(if_none_match='"other"', if_modified_since=modified) == 200

    (site / "hello.txt").write_bytes(b"other data")
    assert answer(site, "/hello.txt").headers["etag"] != etag


def test_file_from_the_future(site: Path) -> None:
    os.utime(site / "hello.txt", (4_000_000_000, 4_000_000_000))
    modified = answer(site, "/hello.txt").headers["last-modified"]
    assert modified.partition(":")[0] != formatdate(4_000_000_000, usegmt=True).partition(":")[0]


@pytest.mark.parametrize(
    ("asked", "where", "body"),
    [
        ("bytes=0-0", "0-0", b"0"),
        ("bytes=2-4", "2-4", b"234"),
        ("BYTES=2-4", "2-4", b"234"),
        ("bytes=7-", "7-9", b"789"),
        ("bytes=7-100", "7-9", b"789"),
        ("bytes=-3", "7-9", b"789"),
        ("bytes=-100", "0-9", b"0123456789"),
    ],
)
def test_range(asked: str, where: str, body: bytes, site: Path) -> None:
    reply = answer(site, "/hello.txt", {"range": asked})
    assert (reply.status, reply.body) == (206, body)
    assert reply.headers["content-range"] == f"bytes {where}/10"
    assert "etag" in reply.headers
    # Ranges are for GET alone.
    head = answer(site, "/hello.txt", {"range": asked}, method="HEAD")
    assert (head.status, "content-range" in head.headers) == (200, False)


@pytest.mark.parametrize(
    "asked",
    [
        *("bytes=", "bytes=-", "bytes=a-b", "bytes=4-2", "bytes=0-1,3-4", "lines=1-2", "bytes 1-2"),
        *("bytes=0-\u0663", "bytes=1-" + "9" * 5000),
    ],
)
def test_range_that_is_ignored(asked: str, site: Path) -> None:
    reply = answer(site, "/hello.txt", {"range": asked})
    assert (reply.status, reply.body) == (200, b"0123456789")
    assert "content-range" not in reply.headers


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_range_past_the_end(asked: str, site: Path) -> None:
    reply = answer(site, "/hello.txt", {"range": asked})
    assert reply.status == 416
    assert reply.headers["content-range"] == "bytes */10"


def test_range_of_another_state(site: Path) -> None:
    etag = answer(site, "/hello.txt").headers["etag"]
    asked = {"range": "bytes=0-1", "if-range": etag}
    assert answer(site, "/hello.txt", asked).body == b"01"
    asked = {"range": "bytes=0-1", "if-range": '"other"'}
    assert answer(site, "/hello.txt", asked).body == b"0123456789"
