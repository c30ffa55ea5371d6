"""Downloads: whole or not at all, resumed where they stopped, tried again only where that helps."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import FileServer, dripping, hanging, resumable, serving, status, whole

from glmtune.data.adgen.downloading import download
from glmtune.data.adgen.patience import Patience
from glmtune.errors import DataError

CONTENT = bytes(range(256)) * 800
HALF = len(CONTENT) // 2
HASTY = Patience(connect_s=2, read_s=0.2, tries=3, pause_s=0)
STRICT = replace(HASTY, least_bytes_s=1e6, window_s=0.1)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running


def fetch(server: FileServer, folder: Path, *, most_bytes: int = 10**6) -> bytes:
    """Download /file, and see that nothing else is left in the folder."""
    target = folder / "file"
    download(f"{server.url}/file", target, most_bytes=most_bytes, patience=HASTY)
    assert [path.name for path in folder.iterdir()] == ["file"]
    return target.read_bytes()


def complaint(
    server: FileServer, folder: Path, *, most_bytes: int = 10**6, patience: Patience = HASTY
) -> str:
    """The message of a download that must fail, without the address it begins with."""
    url = f"{server.url}/file"
    with pytest.raises(DataError) as caught:
        download(url, folder / "file", most_bytes=most_bytes, patience=patience)
    assert not (folder / "file").exists()
    assert str(caught.value).startswith(f"{url}: ")
    return str(caught.value).removeprefix(f"{url}: ")


def test_a_file_arrives_as_it_is_even_if_it_is_packed(server: FileServer, tmp_path: Path) -> None:
    """Content-Encoding on a .gz file is a common mistake of servers; its bytes are wanted."""
    server.answers["/file"] = [whole(CONTENT, Content_Encoding="gzip")]
    assert fetch(server, tmp_path) == CONTENT
    assert server.asked[0][1]["Accept-Encoding"] == "identity"


def test_a_redirect_is_followed(server: FileServer, tmp_path: Path) -> None:
    server.answers["/file"] = [status(302, Location="/elsewhere")]
    server.answers["/elsewhere"] = [resumable(CONTENT)]
    assert fetch(server, tmp_path) == CONTENT


def test_redirects_in_a_circle_end(server: FileServer, tmp_path: Path) -> None:
    server.answers["/file"] = [status(302, Location="/file")]
    assert "30 redirects" in complaint(server, tmp_path)


def test_a_connection_that_is_cut_goes_on_where_it_stopped(
    server: FileServer, tmp_path: Path
) -> None:
    """More often than `tries`: each time something arrived."""
    stops = [1000, 70_000, 70_001, HALF]
    server.answers["/file"] = [resumable(CONTENT, stop_at=n) for n in stops] + [resumable(CONTENT)]
    assert fetch(server, tmp_path) == CONTENT
    assert server.ranges() == [None, *(f"bytes={n}-" for n in stops)]


def test_a_later_run_goes_on_where_the_former_one_gave_up(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers["/file"] = [resumable(CONTENT, stop_at=HALF)]
    assert "the connection was cut" in complaint(server, tmp_path)
    server.answers["/file"], server.asked = [resumable(CONTENT)], []
    assert fetch(server, tmp_path) == CONTENT
    assert server.ranges() == [f"bytes={HALF}-"]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers["/file"] = [
        resumable(b"x" * len(CONTENT), etag='"old"', stop_at=HALF),
        resumable(CONTENT, etag='"new"'),
    ]
    assert fetch(server, tmp_path) == CONTENT


def test_what_came_from_another_address_is_not_continued(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers["/other"] = [resumable(b"x" * len(CONTENT), stop_at=HALF)]
    with pytest.raises(DataError):
        download(f"{server.url}/other", tmp_path / "file", most_bytes=10**6, patience=HASTY)
    server.answers["/file"] = [resumable(CONTENT)]
    assert fetch(server, tmp_path) == CONTENT


def test_a_server_that_ignores_ranges_sends_all_again(server: FileServer, tmp_path: Path) -> None:
    server.answers["/file"] = [resumable(CONTENT, stop_at=HALF), whole(CONTENT)]
    assert fetch(server, tmp_path) == CONTENT
    assert server.ranges() == [None, f"bytes={HALF}-"]


def test_a_server_that_sends_another_range_is_not_believed(
    server: FileServer, tmp_path: Path
) -> None:
    def beginning_again(request) -> None:
        size = len(CONTENT)
        head = {"Content-Length": size, "Content-Range": f"bytes 0-{size - 1}/{size}"}
        request.send_head(206, head)
        request.wfile.write(CONTENT)

    first = resumable(CONTENT, stop_at=HALF)
    server.answers["/file"] = [first, beginning_again, resumable(CONTENT)]
    assert fetch(server, tmp_path) == CONTENT


def test_a_server_that_sends_only_a_piece_of_a_range_is_asked_again(
    server: FileServer, tmp_path: Path
) -> None:
    def piece(request) -> None:
        start = int(request.headers["Range"][len("bytes=") : -1])
        body = CONTENT[start : start + 30_000]
        span = f"bytes {start}-{start + len(body) - 1}/{len(CONTENT)}"
        request.send_head(206, {"Content-Length": len(body), "Content-Range": span})
        request.wfile.write(body)

    server.answers["/file"] = [resumable(CONTENT, stop_at=HALF), piece]
    assert fetch(server, tmp_path) == CONTENT


def test_a_part_that_was_whole_already_needs_no_byte(server: FileServer, tmp_path: Path) -> None:
    """Killed between the last byte and the renaming."""
    url = f"{server.url}/file"
    (tmp_path / "file.part").write_bytes(CONTENT)
    notes = {"url": url, "validator": '"1"', "total": len(CONTENT)}
    (tmp_path / "file.part.json").write_text(json.dumps(notes))
    server.answers["/file"] = [status(416, Content_Range=f"bytes */{len(CONTENT)}")]
    assert fetch(server, tmp_path) == CONTENT


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(server: FileServer, tmp_path: Path, code: int) -> None:
    server.answers["/file"] = [status(code), status(code), whole(CONTENT)]
    assert fetch(server, tmp_path) == CONTENT


def test_a_server_that_stays_in_trouble_is_named_with_its_answer(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers["/file"] = [status(500)]
    assert complaint(server, tmp_path) == "HTTP 500 Internal Server Error, 3 times in a row"
    assert len(server.asked) == 3


@pytest.mark.parametrize(("code", "words"), [(404, "Not Found"), (403, "Forbidden"), (410, "Gone")])
def test_a_refusal_is_not_asked_again(
    server: FileServer, tmp_path: Path, code: int, words: str
) -> None:
    server.answers["/file"] = [status(code)]
    assert complaint(server, tmp_path) == f"HTTP {code} {words}"
    assert len(server.asked) == 1


def test_pauses_double_and_heed_the_server_within_reason(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("glmtune.data.adgen.downloading.time.sleep", pauses.append)
    server.answers["/file"] = [status(500), status(500), status(503, Retry_After=20), status(500)]
    server.answers["/file"] += [status(429, Retry_After=9999), whole(CONTENT)]
    download(
        f"{server.url}/file",
        tmp_path / "file",
        most_bytes=10**6,
        patience=Patience(tries=9, pause_s=1, longest_pause_s=30),
    )
    assert pauses == [1, 2, 20, 8, 30]


def test_a_server_that_hangs_is_left_after_the_time_out(server: FileServer, tmp_path: Path) -> None:
    server.answers["/file"] = [hanging()]
    assert complaint(server, tmp_path) == "no data for 0.2 s, 3 times in a row"


def test_a_file_that_hangs_half_way_is_left_after_the_time_out(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers["/file"] = [hanging(bytes(20_000))]
    assert complaint(server, tmp_path) == "no data for 0.2 s, 3 times in a row"
    assert len(server.asked) == 1 + HASTY.tries  # the first one brought something


def test_a_server_that_drips_is_left_for_being_slow(server: FileServer, tmp_path: Path) -> None:
    """Each byte ends the wait for the next, so that no time-out of the connection ever comes."""
    server.answers["/file"] = [dripping()]
    patience = replace(HASTY, window_s=0.1)
    reason = "slower than 1000 bytes a second for 0.1 s, 3 times in a row"
    assert complaint(server, tmp_path, patience=patience) == reason
    assert len(server.asked) == 3
    assert 0 < (tmp_path / "file.part").stat().st_size < 1000


@pytest.mark.parametrize("code", [200, 302])
def test_headers_that_drip_are_not_waited_for(
    server: FileServer, tmp_path: Path, code: int
) -> None:
    """Nor is the body of a redirect, which requests reads to its end."""

    def drip(request) -> None:
        request.send_response(code)
        if code == 302:
            request.send_header("Location", "/file")
            request.end_headers()
        else:
            request.wfile.write(b"HTTP/1.0 200 OK\r\nX-Header: ")
        while not request.server.stopping.wait(0.01):
            request.wfile.write(b"x")

    server.answers["/file"] = [drip]
    patience = replace(HASTY, answer_s=0.2)
    reason = "no answer within 0.2 s, 3 times in a row"
    assert complaint(server, tmp_path, patience=patience) == reason
    assert len(server.asked) == 3


def test_a_little_more_each_time_does_not_go_on_for_ever(
    server: FileServer, tmp_path: Path
) -> None:
    def a_little_more(request) -> None:
        start = int(request.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
        resumable(CONTENT, stop_at=start + 5)(request)

    server.answers["/file"] = [a_little_more]
    assert "3 times in a row" in complaint(server, tmp_path, patience=STRICT)
    assert server.ranges() == [None, "bytes=5-", "bytes=10-"]


def test_a_slow_moment_loses_nothing(server: FileServer, tmp_path: Path) -> None:
    """What dripped in is kept, and the next try may be as fast as ever."""

    def slow_beginning(request) -> None:
        request.send_head(200, {"Content-Length": len(CONTENT), "ETag": '"1"'})
        for place in range(len(CONTENT)):
            if request.server.stopping.wait(0.01):
                return
            request.wfile.write(CONTENT[place : place + 1])

    server.answers["/file"] = [slow_beginning, resumable(CONTENT)]
    patience = replace(HASTY, window_s=0.1)
    download(f"{server.url}/file", tmp_path / "file", most_bytes=10**6, patience=patience)
    assert (tmp_path / "file").read_bytes() == CONTENT
    (first, second) = server.ranges()
    assert first is None
    assert 0 < int(str(second)[len("bytes=") : -1]) < 1000


def test_a_content_length_above_the_content_does_not_pass_for_the_whole(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers["/file"] = [whole(CONTENT, Content_Length=len(CONTENT) + 5)]
    assert complaint(server, tmp_path).startswith("the connection was cut")


@pytest.mark.parametrize(
    ("page", "kind", "title"),
    [
        (b"<!DOCTYPE html><title>Sign\n in</title>", "application/gzip", "Sign in"),
        (b"\xef\xbb\xbf\n<HTML lang=zh></HTML>", "text/plain", "without title"),
        (b"<!-- 1 --><title>404</title>", "text/html; charset=utf-8", "404"),
    ],
)
def test_a_web_page_is_not_taken_for_the_file(
    server: FileServer, tmp_path: Path, page: bytes, kind: str, title: str
) -> None:
    server.answers["/file"] = [whole(page, Content_Type=kind)]
    assert complaint(server, tmp_path) == f"a web page ({title}) instead of the file"
    assert len(server.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_the_type_of_a_web_page_is_taken_for_a_file(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers["/file"] = [whole(CONTENT, Content_Type="text/html")]
    assert fetch(server, tmp_path) == CONTENT


def test_a_file_above_the_limit_is_refused_before_and_while_it_arrives(
    server: FileServer, tmp_path: Path
) -> None:
    def endless(request) -> None:
        request.send_head(200, {})
        while True:
            request.wfile.write(CONTENT)

    for answer in (whole(CONTENT), endless):
        server.answers["/file"] = [answer]
        assert complaint(server, tmp_path, most_bytes=HALF) == (
            f"larger than {HALF} bytes, so it is another file"
        )
        assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays_until_the_new_file_is_whole(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"before")
    server.answers["/file"] = [resumable(CONTENT, stop_at=HALF)]
    with pytest.raises(DataError):
        download(f"{server.url}/file", tmp_path / "file", most_bytes=10**6, patience=HASTY)
    assert (tmp_path / "file").read_bytes() == b"before"


def test_nobody_listening_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("glmtune.data.adgen.downloading.time.sleep", pytest.fail)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/file"
        with pytest.raises(DataError, match=r"no connection \(.*Connection refused\)$"):
            download(url, tmp_path / "file", most_bytes=100)


def test_a_machine_without_a_network_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("glmtune.data.adgen.downloading.time.sleep", pytest.fail)
    with pytest.raises(DataError) as caught:
        download("http://data.example/file", tmp_path / "file", most_bytes=100)
    assert str(caught.value) == (
        "http://data.example/file: no connection: the name of the server is not known here"
    )


def test_the_proxy_of_the_environment_is_used_and_named(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.answers["http://data.example/file"] = [whole(CONTENT)]
    download("http://data.example/file", tmp_path / "file", most_bytes=10**6)
    assert (tmp_path / "file").read_bytes() == CONTENT
    monkeypatch.setenv("https_proxy", server.url)  # it cannot CONNECT
    with pytest.raises(DataError, match=r"the proxy does not connect .*; check HTTPS_PROXY"):
        download("https://data.example/file", tmp_path / "new", most_bytes=100, patience=HASTY)


@pytest.mark.parametrize("url", ["ftp://data.example/file", "file:///etc/hosts", "http://[::1/x"])
def test_an_address_that_is_none_is_named(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError) as caught:
        download(url, tmp_path / "file", most_bytes=100)
    assert str(caught.value).startswith(f"{url}: cannot be fetched (")
