"""Published models: listed by each kind of site, resumed, verified, recorded; bad answers."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import file_server
import pytest
from file_server import Answer, FileServer, ranged, serving, sha256, status, whole

from glmtune import downloading as http
from glmtune.commands.download import main
from glmtune.errors import ParamsError, ResourceError, WeightsError
from glmtune.files import read_json
from glmtune.hubs import downloading
from glmtune.hubs.sites import SITES

COMMIT, MASTER = "c" * 40, "master"
FILES = {
    "config.json": b'{"model_type": "chatglm"}',
    "model.safetensors": bytes(range(256)) * 9000,
    "tokenizer.model": b"pieces" * 100,
}
# Beside the model; none of it is ever asked for.
OTHERS = {
    "modeling_chatglm.py": b"import os",
    "pytorch_model.bin": b"the same weights",
    "sub/config.json": b"{}",
    "../tokenizer.model": b"out of the folder",
    "model\n.safetensors": b"",
}
# How each kind of site is asked: who owns ChatGLM there, its site, and the path of a file.
HF, MS = "THUDM/chatglm3-6b-base", "ZhipuAI/chatglm3-6b-base"


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def on_hugging_face(name: str) -> str:
    return f"/{HF}/resolve/{COMMIT}/{name}"


def on_modelscope(name: str) -> str:
    return f"/api/v1/models/{MS}/repo?Revision={MASTER}&FilePath={name}"


def as_json(value: Any) -> list[Answer]:
    return [whole(json.dumps(value).encode())]


def publish_on_hugging_face(server: FileServer, files: dict[str, bytes]) -> None:
    """As the hub does: large files with their SHA-256, small ones with git's hash."""
    entries = []
    for name, content in files.items():
        entry = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
        if name.endswith((".safetensors", ".model", ".bin")):
            entry |= {"lfs": {"oid": sha256(content), "size": len(content)}}
        entries.append(entry)
        server.answers[on_hugging_face(name)] = [ranged(content)]
    about = f"/api/models/{HF}"
    for revision in ("main", COMMIT):
        server.answers[f"{about}/revision/{revision}"] = as_json({"sha": COMMIT})
    # A tool may leave a folder with the name of a file.
    entries.append({"type": "directory", "path": "model.safetensors.d", "size": 0, "oid": COMMIT})
    # The second page is named as the original site's, which a mirror may pass on.
    tree, rest = f"{about}/tree/{COMMIT}", "?cursor=ZXlK&limit=2"
    link = f'<https://hub.invalid{tree}{rest}>; rel="next"'
    server.answers[tree] = [whole(json.dumps(entries[:2]).encode(), Link=link)]
    server.answers[tree + rest] = as_json(entries[2:])


def publish_on_modelscope(server: FileServer, files: dict[str, bytes]) -> None:
    file_server.publish_on_modelscope(server, MS, MASTER, files)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(http, "RETRY", http.RETRY.new(backoff_factor=0))
    monkeypatch.setattr(downloading, "BACKOFF_S", 0.0)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, FileServer]]:
    """Each site on this machine, without any model."""
    with serving() as hub, serving() as mirror, serving() as modelscope:
        found = dict(zip(SITES, (hub, mirror, modelscope), strict=True))
        for name, server in found.items():
            monkeypatch.setenv(SITES[name].variable, server.url)
        yield found


@pytest.fixture
def hub(servers: dict[str, FileServer]) -> FileServer:
    """The hub, with the model."""
    publish_on_hugging_face(servers["huggingface"], FILES | OTHERS)
    return servers["huggingface"]


def download(*flags: str) -> Path:
    main(["chatglm3-6b-base", *flags])
    return Path("weights/chatglm3-6b-base")


def refusal(*flags: str) -> str:
    with pytest.raises(WeightsError) as caught:
        download(*flags)
    return str(caught.value)


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name in FILES}


@pytest.mark.parametrize(
    ("site", "publish", "path", "repository", "revision"),
    [
        ("huggingface", publish_on_hugging_face, on_hugging_face, HF, COMMIT),
        ("hf-mirror", publish_on_hugging_face, on_hugging_face, HF, COMMIT),
        ("modelscope", publish_on_modelscope, on_modelscope, MS, MASTER),
    ],
)
def test_a_model_is_downloaded_from_any_site_without_code(
    site: str,
    publish: Callable[[FileServer, dict[str, bytes]], None],
    path: Callable[[str], str],
    repository: str,
    revision: str,
    servers: dict[str, FileServer],
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(servers[site], FILES | OTHERS)
    folder = download()
    assert held(folder) == FILES
    assert sorted(item.name for item in folder.iterdir()) == sorted([*FILES, "download.json"])
    record = read_json(folder / "download.json")
    assert (record["repository"], record["revision"]) == (repository, revision)
    assert record["files"] == {name: sha256(content) for name, content in FILES.items()}
    assert {path(name) for name in OTHERS} & set(servers[site].asked) == set()
    named = "models: { chatglm3-6b-base: { source: ./weights/chatglm3-6b-base } }"
    assert named in capsys.readouterr().out


def test_the_sites_are_asked_in_order_unless_one_is_chosen(servers: dict[str, FileServer]) -> None:
    publish_on_modelscope(servers["modelscope"], FILES)
    download()
    assert [bool(server.asked) for server in servers.values()] == [True, True, True]
    for server in servers.values():
        server.asked.clear()
    download("--from", "modelscope", "--out", "elsewhere")
    assert [bool(server.asked) for server in servers.values()] == [False, False, True]


def test_pickles_are_downloaded_where_there_is_nothing_else(
    servers: dict[str, FileServer],
) -> None:
    files = {"config.json": b"{}", "pytorch_model.bin": b"weights", "ice_text.model": b"pieces"}
    publish_on_hugging_face(servers["huggingface"], files)
    assert (download() / "pytorch_model.bin").read_bytes() == b"weights"


def test_a_broken_connection_goes_on_where_it_ended(hub: FileServer) -> None:
    path, content = on_hugging_face("model.safetensors"), FILES["model.safetensors"]
    hub.answers[path] = [ranged(content, stops_after=1000), ranged(content)]
    assert held(download()) == FILES
    assert hub.asked.count(path) == 2


def test_a_killed_download_goes_on_with_what_had_arrived(hub: FileServer) -> None:
    content = FILES["model.safetensors"]
    part = Path("weights/chatglm3-6b-base/.download/model.safetensors")
    part.parent.mkdir(parents=True)
    part.write_bytes(content[:-5])
    sent: list[str | None] = []

    def answer(request: Any) -> None:
        sent.append(request.headers.get("Range"))
        ranged(content)(request)

    hub.answers[on_hugging_face("model.safetensors")] = [answer]
    assert held(download()) == FILES
    assert sent == [f"bytes={len(content) - 5}-"]


def test_a_part_that_is_sent_with_status_200_is_known_by_its_range(
    servers: dict[str, FileServer],
) -> None:
    """As ModelScope's servers answer, which honour ranges."""
    modelscope, content = servers["modelscope"], FILES["model.safetensors"]
    publish_on_modelscope(modelscope, FILES)
    path = on_modelscope("model.safetensors")
    modelscope.answers[path] = [
        ranged(content, stops_after=len(content) - 5),
        whole(content[:-5], Content_Range=f"bytes 0-{len(content) - 6}/{len(content)}"),
        ranged(content, stops_after=5, code=200),
    ]
    assert held(download("--from", "modelscope")) == FILES


@pytest.mark.parametrize("part", [b"x" * 3_000_000, b"not a beginning of it"])
def test_what_is_no_beginning_of_the_file_is_replaced(part: bytes, hub: FileServer) -> None:
    file = Path("weights/chatglm3-6b-base/.download/model.safetensors")
    file.parent.mkdir(parents=True)
    file.write_bytes(part)
    if len(part) < 100:
        assert "not those whose sha256 hash" in refusal()
    assert held(download()) == FILES


def test_a_site_without_ranges_sends_everything_again(hub: FileServer) -> None:
    content = FILES["model.safetensors"]
    answers = [ranged(content, stops_after=1000), whole(content)]
    hub.answers[on_hugging_face("model.safetensors")] = answers
    assert held(download()) == FILES


def test_a_connection_that_never_brings_anything_is_given_up(hub: FileServer) -> None:
    path = on_hugging_face("model.safetensors")
    hub.answers[path] = [ranged(FILES["model.safetensors"], stops_after=0)]
    message = refusal()
    assert "model.safetensors: no site gave it:" in message
    assert "run the same command again: what has arrived is kept" in message
    assert hub.asked.count(path) == downloading.TRIES


def test_the_mirror_gives_what_the_hub_does_not(
    hub: FileServer, servers: dict[str, FileServer]
) -> None:
    publish_on_hugging_face(servers["hf-mirror"], FILES)
    hub.answers[on_hugging_face("model.safetensors")] = [status(403)]
    assert held(download()) == FILES
    assert servers["hf-mirror"].asked == [on_hugging_face("model.safetensors")]


@pytest.mark.parametrize("name", FILES)
def test_other_bytes_than_those_stated_are_never_used(name: str, hub: FileServer) -> None:
    content = FILES[name]
    hub.answers[on_hugging_face(name)] = [ranged(content[:-1] + b"\x07")]
    assert f"{name}: no site gave it:" in refusal()
    assert not Path("weights/chatglm3-6b-base", name).exists()
    hub.answers[on_hugging_face(name)] = [whole(content + b"more")]
    assert f"more than the {len(content):,} bytes that are stated" in refusal()


def test_what_is_there_is_not_downloaded_again(hub: FileServer) -> None:
    folder = download()
    (folder / "config.json").unlink()
    hub.asked.clear()
    download()
    assert [path for path in hub.asked if "/resolve/" in path] == [on_hugging_face("config.json")]
    assert f"/api/models/{HF}/revision/{COMMIT}" in hub.asked  # that of the record


def test_a_file_changed_afterwards_is_found(hub: FileServer) -> None:
    folder = download()
    (folder / "config.json").write_bytes(FILES["config.json"].replace(b"chat", b"char"))
    assert "config.json: found another content than" in refusal()


def test_another_statement_for_the_same_revision_is_refused(hub: FileServer) -> None:
    download()
    publish_on_hugging_face(hub, FILES | {"model.safetensors": b"other weights"})
    assert "the site now states" in refusal()
    assert held(Path("weights/chatglm3-6b-base")) == FILES


def test_a_folder_stays_with_its_revision_and_site(hub: FileServer) -> None:
    download()
    hub.answers[f"/api/models/{HF}/revision/new"] = as_json({"sha": "d" * 40})
    hub.answers[f"/api/models/{HF}/tree/{'d' * 40}"] = hub.answers[
        f"/api/models/{HF}/tree/{COMMIT}"
    ]
    assert f"at {COMMIT}; found revision {'d' * 40}; choose another" in refusal("--revision", "new")
    assert "found THUDM/chatglm3-6b-base of another kind of site" in refusal("--from", "modelscope")
    Path("weights/chatglm3-6b-base/download.json").write_text("[]", encoding="utf-8")
    assert "not the record of a download; remove it" in refusal()


BAD_LISTS: dict[str, tuple[Any, str]] = {
    "no list": ({"error": "x"}, "found dict in the answer; expected list"),
    "a file without a hash": (
        [{"path": "config.json", "size": 3}],
        "no size or no hash for config.json in the list of files",
    ),
    "a hash that is none": (
        [{"path": "config.json", "size": 3, "oid": "12"}],
        "no size or no hash for config.json in the list of files",
    ),
    "a size that is none": (
        [{"path": "config.json", "size": "3", "oid": COMMIT}],
        "no size or no hash for config.json in the list of files",
    ),
    "things that are no files": ([1, None, {"path": 3}], "has no model*.safetensors and no"),
    "no weights": (
        [{"path": "config.json", "size": 3, "oid": COMMIT}],
        "has no model*.safetensors and no pytorch_model*.bin",
    ),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_a_bad_list_of_files_is_one_message(case: str, hub: FileServer) -> None:
    entries, expected = BAD_LISTS[case]
    hub.answers[f"/api/models/{HF}/tree/{COMMIT}"] = as_json(entries)
    message = refusal("--from", "huggingface")
    assert message.startswith("chatglm3-6b-base: huggingface (http://127.0.0.1:")
    assert "\n" not in message
    assert expected in message


def test_a_page_instead_of_an_answer_and_a_site_without_the_model_are_told_apart(
    hub: FileServer, servers: dict[str, FileServer]
) -> None:
    hub.answers[f"/api/models/{HF}/revision/main"] = [whole(b"<html>log in</html>")]
    listing = f"/api/v1/models/{MS}/repo/files?Revision={MASTER}"
    servers["modelscope"].answers[listing] = as_json({"Code": 10010205001, "Data": None})
    first, *sites, last = refusal().splitlines()
    assert first == "chatglm3-6b-base: no site gave it:"
    assert [line.partition("): ")[2] for line in sites] == [
        "the answer is not JSON: a login page, or another kind of site",
        "HTTP 404 Not Found",
        "no list of files in the answer",
    ]
    assert "HTTPS_PROXY" in last


def test_a_revision_that_modelscope_lacks_is_named(servers: dict[str, FileServer]) -> None:
    """It answers with HTTP 200 and no list."""
    listing = f"/api/v1/models/{MS}/repo/files?Revision=v9"
    servers["modelscope"].answers[listing] = as_json({"Code": 200, "Data": {"Files": None}})
    assert "): no revision v9; check" in refusal("--from", "modelscope", "--revision", "v9")


def test_a_full_disk_is_told_before_anything_is_downloaded(
    hub: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = downloading.shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match=r"0\.0 GB are still to be downloaded"):
        download()
    assert [path for path in hub.asked if "/resolve/" in path] == []


@pytest.mark.parametrize("name", ["../chatglm", "a/b/c", "-x/y", "", "a b", "/etc"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ParamsError, match="expected a name such as chatglm3-6b-base, or owner/"):
        main(["--", name])


def test_shards_that_the_repository_lacks_are_named(servers: dict[str, FileServer]) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    files = {
        "config.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-1.safetensors": b"first",
    }
    publish_on_hugging_face(servers["huggingface"], files)
    assert "1 of 2 files are missing: model-2.safetensors" in refusal()


def test_a_failed_download_leaves_only_what_has_arrived(hub: FileServer) -> None:
    main_list = hub.answers.pop(f"/api/models/{HF}/revision/main")
    refusal()
    assert not Path("weights/chatglm3-6b-base").exists()
    hub.answers[f"/api/models/{HF}/revision/main"] = main_list
    last = on_hugging_face("tokenizer.model")
    hub.answers[last] = [status(403)]
    refusal()
    left = sorted(path.name for path in Path("weights/chatglm3-6b-base").iterdir())
    assert left == ["config.json", "download.json", "model.safetensors"]
    hub.answers[last] = [ranged(FILES["tokenizer.model"], stops_after=3)]
    refusal()
    part = Path("weights/chatglm3-6b-base/.download/tokenizer.model").read_bytes()
    assert part
    assert FILES["tokenizer.model"].startswith(part)


def test_a_second_download_waits_and_finds_everything_there(hub: FileServer) -> None:
    """As two models of params.yaml that name the same source."""
    path, content = on_hugging_face("model.safetensors"), FILES["model.safetensors"]
    is_asked, may_answer = threading.Event(), threading.Event()

    def answer(request: Any) -> None:
        is_asked.set()
        may_answer.wait(30)
        ranged(content)(request)

    hub.answers[path] = [answer]
    with ThreadPoolExecutor() as pool:
        first = pool.submit(download)
        assert is_asked.wait(30)
        second = pool.submit(download)
        time.sleep(0.2)  # the second waits for the lock by now
        may_answer.set()
        assert held(first.result()) == held(second.result()) == FILES
    assert hub.asked.count(path) == 1
    assert not Path("weights/chatglm3-6b-base/.download").exists()
