"""Archives of strangers: the named files come out, nothing else, and nothing goes elsewhere."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmtune.data.adgen.archives import Limits, extract
from glmtune.errors import DataError

NAMES = ("train.json", "dev.json")
FILES = {"AdvertiseGen/train.json": b"train\n" * 50, "AdvertiseGen/dev.json": b"dev\n"}
LINK, HARD_LINK, DEVICE, PIPE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE


def tar(*further: tarfile.TarInfo, files: dict[str, bytes] = FILES, how: str = "w:gz") -> bytes:
    """A tar archive of `further` members, then of files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=how) as archive:  # type: ignore[call-overload]
        for member in further:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def zipped(files: dict[str, bytes] = FILES, mode: int = 0) -> bytes:
    """A zip archive whose members have a mode of Unix."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def unpack(packed: bytes, folder: Path, limits: Limits | None = None) -> dict[str, bytes]:
    """What comes out of an archive's bytes, after seeing that nothing was written elsewhere."""
    archive = folder / "archive"
    archive.write_bytes(packed)
    extract(archive, NAMES, folder / "out", limits)
    assert sorted(path.name for path in folder.iterdir()) == ["archive", "out"]
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


def refusal(packed: bytes, folder: Path, limits: Limits | None = None) -> str:
    """The message, without the archive's path, for an archive that must leave nothing behind."""
    with pytest.raises(DataError) as caught:
        unpack(packed, folder, limits)
    assert [path.name for path in folder.iterdir()] == ["archive"]
    assert str(caught.value).startswith(f"{folder / 'archive'}: ")
    return str(caught.value).removeprefix(f"{folder / 'archive'}: ")


@pytest.mark.parametrize(
    "packed",
    [tar(), tar(how="w"), zipped(), tar(special("AdvertiseGen", tarfile.DIRTYPE))],
    ids=["tar.gz", "tar", "zip", "with folder"],
)
def test_the_named_files_come_out_of_every_kind(packed: bytes, tmp_path: Path) -> None:
    expected = {"train.json": b"train\n" * 50, "dev.json": b"dev\n"}
    assert unpack(packed, tmp_path) == expected


@pytest.mark.parametrize("pack", [lambda files: tar(files=files), zipped], ids=["tar.gz", "zip"])
def test_other_files_stay_inside(pack: Callable[..., bytes], tmp_path: Path) -> None:
    extras = {"AdvertiseGen/._train.json": b"mac", "README": b"words", "a/train.json.bak": b"old"}
    assert set(unpack(pack({**extras, **FILES}), tmp_path)) == set(NAMES)


def test_windows_separators_are_understood(tmp_path: Path) -> None:
    files = {name.replace("/", "\\"): content for name, content in FILES.items()}
    assert set(unpack(zipped(files), tmp_path)) == set(NAMES)


@pytest.mark.parametrize(
    "name", ["../train.json", "a/../../x", "/etc/x", "/train.json", "C:\\x", "..\\..\\x"]
)
@pytest.mark.parametrize("pack", [lambda files: tar(files=files), zipped], ids=["tar.gz", "zip"])
def test_a_path_that_leads_outside_is_refused(
    pack: Callable[..., bytes], name: str, tmp_path: Path
) -> None:
    message = refusal(pack({name: b"evil", **FILES}), tmp_path)
    assert message == f"{name!r} points outside the archive; refused"


@pytest.mark.parametrize(
    ("member", "what"),
    [
        (special("AdvertiseGen/train.json", LINK, "/etc/passwd"), "a link"),
        (special("AdvertiseGen", LINK, "/tmp"), "a link"),
        (special("dev.json", HARD_LINK, "/etc/passwd"), "a link"),
        (special("train.json", DEVICE), "a device or a sparse file"),
        (special("pipe", PIPE), "a device or a sparse file"),
    ],
    ids=["symlink", "symlink of the folder", "hard link", "device", "pipe"],
)
def test_links_and_devices_in_a_tar_are_refused(
    member: tarfile.TarInfo, what: str, tmp_path: Path
) -> None:
    message = refusal(tar(member), tmp_path)
    assert message == f"{member.name!r} is {what}; expected plain files only"


@pytest.mark.parametrize(
    ("mode", "what"), [(stat.S_IFLNK | 0o777, "a link"), (stat.S_IFCHR, "a device")]
)
def test_links_and_devices_in_a_zip_are_refused(mode: int, what: str, tmp_path: Path) -> None:
    assert f"is {what}; expected plain files only" in refusal(zipped(mode=mode), tmp_path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    packed = bytearray(zipped())
    for mark, flags_at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        packed[packed.index(mark) + flags_at] |= 1
    assert "is encrypted; expected plain files only" in refusal(bytes(packed), tmp_path)


@pytest.mark.parametrize("pack", [lambda files: tar(files=files), zipped], ids=["tar.gz", "zip"])
def test_a_file_that_is_there_twice_is_refused(pack: Callable[..., bytes], tmp_path: Path) -> None:
    message = refusal(pack({"old/train.json": b"", **FILES}), tmp_path)
    assert message == "holds train.json twice; expected one; name another archive"


def test_the_same_member_twice_is_refused(tmp_path: Path) -> None:
    again = tarfile.TarInfo("AdvertiseGen/dev.json")
    assert "holds dev.json twice" in refusal(tar(again), tmp_path)


@pytest.mark.parametrize("pack", [lambda files: tar(files=files), zipped], ids=["tar.gz", "zip"])
def test_a_missing_file_is_named(pack: Callable[..., bytes], tmp_path: Path) -> None:
    message = refusal(pack({"AdvertiseGen/train.json": b"x"}), tmp_path)
    assert message == "no dev.json in it; expected dev.json, train.json"


@pytest.mark.parametrize("pack", [lambda files: tar(files=files), zipped], ids=["tar.gz", "zip"])
@pytest.mark.parametrize("name", ["AdvertiseGen/train.json", "never asked for"])
def test_a_bomb_is_refused(pack: Callable[..., bytes], name: str, tmp_path: Path) -> None:
    bomb = pack({**FILES, name: bytes(1_000_000)})
    assert len(bomb) < 12_000
    message = refusal(bomb, tmp_path, Limits(bytes=100_000))
    assert message == "unpacks to more than 100000 bytes; refused"


def test_a_bomb_in_the_headers_of_a_tar_is_refused(tmp_path: Path) -> None:
    """tarfile reads this one into memory before it names any member."""
    header = tarfile.TarInfo("comment")
    header.type, header.size = tarfile.XHDTYPE, 1_000_000
    bomb = gzip.compress(header.tobuf() + bytes(1_000_000))
    assert "unpacks to more than" in refusal(bomb, tmp_path, Limits(bytes=100_000))


def test_a_zip_that_understates_a_size_gives_no_more_than_it_states(tmp_path: Path) -> None:
    packed = bytearray(zipped({**FILES, "AdvertiseGen/dev.json": bytes(1_000_000)}))
    at = packed.rindex(b"PK\x01\x02")
    packed[at + 24 : at + 28] = (10).to_bytes(4, "little")
    assert "damaged or incomplete" in refusal(bytes(packed), tmp_path, Limits(bytes=100_000))


def test_a_zip_with_a_nameless_member_is_refused(tmp_path: Path) -> None:
    packed = bytearray(zipped())
    entry = packed.rindex(b"PK\x01\x02")
    # The last name becomes its entry's comment.
    packed[entry + 28], packed[entry + 32] = packed[entry + 32], packed[entry + 28]
    assert "no dev.json in it" in refusal(bytes(packed), tmp_path)


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    files = {f"{number}": b"" for number in range(99)} | FILES
    assert refusal(tar(files=files), tmp_path) == "more than 100 members; refused"


@pytest.mark.parametrize("pack", [tar, zipped], ids=["tar.gz", "zip"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_archive_is_refused(
    pack: Callable[..., bytes], share: float, tmp_path: Path
) -> None:
    packed = pack()
    message = refusal(packed[: int(len(packed) * share)], tmp_path)
    assert "damaged or incomplete" in message


@pytest.mark.parametrize("content", [b"", b'{"content": 1}\n', b"<html>"])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    message = refusal(content, tmp_path)
    assert message == "not an archive; expected a .tar.gz, .tar or .zip file"


def test_a_refused_archive_leaves_what_was_there(tmp_path: Path) -> None:
    unpack(tar(), tmp_path)
    with pytest.raises(DataError):
        unpack(tar(special("x", LINK, "y")), tmp_path)
    assert (tmp_path / "out/dev.json").read_bytes() == b"dev\n"


def test_a_full_disk_is_not_blamed_on_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glmtune.data.adgen.archives.shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(tar(), tmp_path)


@given(
    packed=st.sampled_from([tar(how="w"), tar(), zipped()]),
    changes=st.dictionaries(st.integers(0, 3000), st.integers(0, 255), max_size=6),
)
def test_no_bytes_give_another_error(
    tmp_path_factory: pytest.TempPathFactory, packed: bytes, changes: dict[int, int]
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    changed = bytearray(packed)
    for position, value in changes.items():
        changed[position % len(changed)] = value
    try:
        assert set(unpack(bytes(changed), folder)) == set(NAMES)
    except DataError:
        assert not (folder / "out").exists()
