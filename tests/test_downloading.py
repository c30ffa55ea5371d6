"""Untrusted bytes: complete HTTP downloads or a reason; only named members of archives."""

from __future__ import annotations

import gzip
import io
import socket
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from file_server import FileServer, dripping, serving, status, whole
from hypothesis import given
from hypothesis import strategies as st

from glmtune import downloading
from glmtune.data.adgen import archives
from glmtune.data.adgen.archives import read_members
from glmtune.downloading import download
from glmtune.errors import DataError

CONTENT = bytes(range(256)) * 800
NAMES = ("train.json", "dev.json")
FILES = {"AdvertiseGen/train.json": b"train\n" * 50, "AdvertiseGen/dev.json": b"dev\n"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloading, "RETRY", downloading.RETRY.new(backoff_factor=0))
    with serving() as running:
        yield running


def reason(url: str) -> str:
    with pytest.raises(DataError) as caught:
        download(url)
    return str(caught.value)


# --- over HTTP -----------------------------------------------------------------------------------


def test_a_file_arrives_unchanged_even_if_it_is_compressed(server: FileServer) -> None:
    """Servers often set Content-Encoding on .gz files by mistake; the raw bytes are needed."""
    server.answers["/file"] = [whole(CONTENT, Content_Encoding="gzip")]
    assert download(f"{server.url}/file") == CONTENT


def test_a_redirect_is_followed(server: FileServer) -> None:
    server.answers = {"/file": [status(302, Location="/other")], "/other": [whole(CONTENT)]}
    assert download(f"{server.url}/file") == CONTENT


def test_a_server_error_is_retried_and_reported_if_it_persists(server: FileServer) -> None:
    server.answers["/file"] = [status(503, Retry_After=9999), status(429), whole(CONTENT)]
    assert download(f"{server.url}/file") == CONTENT
    server.answers["/file"], server.asked = [status(500)], []
    assert reason(f"{server.url}/file") == "HTTP 500 Internal Server Error"
    assert len(server.asked) == 4


def test_a_refusal_is_not_retried(server: FileServer) -> None:
    assert reason(f"{server.url}/none") == "HTTP 404 Not Found"
    assert len(server.asked) == 1


def test_a_very_slow_server_does_not_block_a_run(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte resets the timeout of the connection, which therefore never expires."""
    monkeypatch.setattr(downloading, "GRACE_S", 0.1)
    server.answers["/file"] = [dripping(b"HTTP/1.0 200 OK\r\n\r\n")]
    assert reason(f"{server.url}/file") == "slower than 20,000 bytes per second; gave up"


def test_a_fast_download_may_take_longer_than_the_grace(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "GRACE_S", 0.0)
    server.answers["/file"] = [whole(CONTENT)]
    assert download(f"{server.url}/file") == CONTENT


def test_a_file_that_ends_early_is_not_accepted(server: FileServer) -> None:
    server.answers["/file"] = [whole(CONTENT, Content_Length=len(CONTENT) + 5)]
    assert "5 more expected" in reason(f"{server.url}/file")


def test_a_file_above_the_limit_is_refused(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "MOST_BYTES", 100_000)
    server.answers["/file"] = [whole(CONTENT)]
    assert reason(f"{server.url}/file") == "more than 100,000 bytes, so it is a different file"


def test_a_refused_connection_is_reported_at_once(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", pytest.fail)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        assert "Connection refused" in reason(f"http://127.0.0.1:{taken.getsockname()[1]}/file")


def test_the_proxy_of_the_environment_is_used(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.answers["http://data.example/file"] = [whole(CONTENT)]
    assert download("http://data.example/file") == CONTENT
    monkeypatch.setenv("https_proxy", server.url)  # it cannot CONNECT
    assert reason("https://data.example/file").startswith("ProxyError: 501 ")


@pytest.mark.parametrize(
    ("url", "kind"), [("ftp://data.example/file", "InvalidSchema"), ("http://[::1/x", "InvalidURL")]
)
def test_an_invalid_url_is_named(url: str, kind: str) -> None:
    assert reason(url).startswith(f"{kind}: ")


# --- archives ------------------------------------------------------------------------------------


def tar(*further: tarfile.TarInfo, files: dict[str, bytes] = FILES, how: str = "w:gz") -> bytes:
    """A tar archive of `further` members, then of files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=how) as archive:  # type: ignore[call-overload]
        for member in further:
            archive.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def zipped(files: dict[str, bytes] = FILES) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


KINDS = pytest.mark.parametrize(
    "pack", [lambda files=FILES: tar(files=files), zipped], ids=["tar.gz", "zip"]
)


def refusal(packed: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read_members(packed, NAMES)
    return str(caught.value)


@pytest.mark.parametrize("packed", [tar(), tar(how="w"), zipped()], ids=["tar.gz", "tar", "zip"])
def test_the_named_files_are_read_from_every_kind_of_archive(packed: bytes) -> None:
    assert read_members(packed, NAMES) == {"train.json": b"train\n" * 50, "dev.json": b"dev\n"}


@KINDS
def test_other_files_and_paths_leading_outside_write_nothing(
    pack: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    names = ("../dev.json", str(tmp_path / "train.json"), "._train.json", "README")
    assert set(read_members(pack({**FILES, **dict.fromkeys(names, b"x")}), NAMES)) == set(NAMES)
    assert list(tmp_path.rglob("*")) == [inner]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_a_link_or_device_is_not_mistaken_for_a_file(kind: bytes) -> None:
    member = tarfile.TarInfo("train.json")
    member.type, member.linkname = kind, "/etc/passwd"
    packed = tar(member, files={"AdvertiseGen/dev.json": b"dev\n"})
    assert refusal(packed) == "no train.json in it; expected dev.json, train.json"


@KINDS
def test_a_bomb_is_refused(pack: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 100_000)
    bomb = pack({"AdvertiseGen/train.json": bytes(1_000_000)})
    assert len(bomb) < 12_000
    assert refusal(bomb) == "unpacks to more than 100,000 bytes; expected only the data set"


def test_a_bomb_in_the_headers_of_a_tar_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """tarfile reads this one into memory before it names any member."""
    monkeypatch.setattr(archives, "MOST_BYTES", 100_000)
    header = tarfile.TarInfo("comment")
    header.type, header.size = tarfile.XHDTYPE, 1_000_000
    assert "unpacks to more than" in refusal(gzip.compress(header.tobuf() + bytes(1_000_000)))


@KINDS
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_archive_is_refused(pack: Callable[..., bytes], share: float) -> None:
    packed = pack()
    assert "damaged or incomplete" in refusal(packed[: int(len(packed) * share)])


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "not an archive"),
        (b'{"content": 1}\n', "not an archive"),
        (b"\n<!DOCTYPE html><title>Sign in</title>", "a web page"),
    ],
)
def test_a_file_that_is_not_an_archive_is_named(content: bytes, kind: str) -> None:
    assert refusal(content) == f"{kind}; expected a .tar.gz, .tar or .zip file"


@given(
    packed=st.sampled_from([tar(how="w"), tar(), zipped()]),
    changes=st.dictionaries(st.integers(0, 3000), st.integers(0, 255), max_size=6),
)
def test_no_bytes_raise_another_error(packed: bytes, changes: dict[int, int]) -> None:
    changed = bytearray(packed)
    for position, value in changes.items():
        changed[position % len(changed)] = value
    with suppress(DataError):
        assert set(read_members(bytes(changed), NAMES)) == set(NAMES)
