"""Files are known again by all of their bytes, and a large one is read once."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from lensdiff.inputs import fingerprints
from lensdiff.inputs.fingerprints import KEPT, LARGE, fingerprint
from lensdiff.results import InputError


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of digests, in a user's cache that is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lensdiff" / KEPT


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was written now counts as one that has lain for long."""
    monkeypatch.setattr(fingerprints, "SETTLED", -10.0)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read, in order."""
    names: list[str] = []
    whole = hashlib.file_digest

    def noted(opened, kind):
        names.append(Path(opened.name).name)
        return whole(opened, kind)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    return names


def large(path: Path, *, fill: int = 0) -> Path:
    """Write a file that is large enough to be remembered."""
    path.write_bytes(bytes([fill]) * LARGE)
    return path


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


MODEL = {"config__json": "{}", "model__safetensors": "weights", "merges__txt": "a b", "chat_template__jinja": "{{x}}"}


# every byte


def test_a_file_is_known_by_the_hash_of_its_bytes(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_bytes(b"sea\t1\n")
    assert fingerprint(path) == hashlib.blake2b(b"sea\t1\n", digest_size=16).hexdigest()


@pytest.mark.parametrize("place", [0, 2**20, 2**20 + 2**19, 5 * 2**19 - 1, 5 * 2**19, 7 * 2**19, 5 * 2**20 - 1])
def test_a_byte_changed_anywhere_changes_the_fingerprint(tmp_path, place):
    content = bytearray(bytes(range(256)) * (5 * 2**12))
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    before = fingerprint(path)
    content[place] ^= 1
    path.write_bytes(content)
    assert fingerprint(path) != before
    assert fingerprint(path) == hashlib.blake2b(content, digest_size=16).hexdigest()


def test_equal_files_have_equal_fingerprints_wherever_they_lie(tmp_path):
    assert fingerprint(large(tmp_path / "a.gguf")) == fingerprint(large(tmp_path / "b.gguf"))
    one, two = write(tmp_path / "one", **MODEL), write(tmp_path / "two", **dict(reversed(MODEL.items())))
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one.rename(tmp_path / "moved")) == fingerprint(two)


@pytest.mark.parametrize("name", [name.replace("__", ".") for name in MODEL])
def test_each_model_file_counts_in_a_folder_with_its_name(tmp_path, name):
    folder = write(tmp_path / "model", **MODEL)
    before, path = fingerprint(folder), folder / name
    path.write_text(path.read_text() + " ")
    changed = fingerprint(folder)
    path.rename(folder / f"other{path.suffix}")
    assert len({before, changed, fingerprint(folder)}) == 3
    (folder / f"other{path.suffix}").unlink()
    assert fingerprint(folder) not in (None, before, changed)


def test_two_files_that_change_places_change_the_folder(tmp_path):
    one = write(tmp_path / "one", a__bin="1", b__bin="2")
    assert fingerprint(one) != fingerprint(write(tmp_path / "two", a__bin="2", b__bin="1"))


def test_what_is_no_model_file_does_not_count(tmp_path):
    folder = write(tmp_path / "model", **MODEL)
    before = fingerprint(folder)
    write(folder, README__md="a model", plot__png="...")
    write(folder / "original", model__safetensors="other weights")
    (folder / "folder.bin").mkdir()
    (folder / "gone.json").symlink_to(tmp_path / "nothing")
    assert fingerprint(folder) == before


def test_nothing_has_no_fingerprint(tmp_path):
    assert fingerprint(tmp_path / "none") is None
    assert fingerprint(write(tmp_path / "notes", README__md="no model")) is None


def test_links_count_as_what_they_lead_to(tmp_path, settled, read):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    large(blobs / "0", fill=0)
    large(blobs / "1", fill=1)
    plain = tmp_path / "plain"
    plain.mkdir()
    large(plain / "model.safetensors")
    links = []
    for name, blob in (("first", "0"), ("second", "0"), ("third", "1")):
        links.append(tmp_path / "snapshots" / name)
        links[-1].mkdir(parents=True)
        (links[-1] / "model.safetensors").symlink_to(Path("..", "..", "blobs", blob))
    first, second, third = (fingerprint(folder) for folder in links)
    assert first == second == fingerprint(plain) != third
    assert read == ["0", "1", "model.safetensors"]  # the second snapshot's blob is known
    (links[0] / "model.safetensors").unlink()
    (links[0] / "model.safetensors").symlink_to(blobs / "1")
    assert fingerprint(links[0]) == third


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def broken(opened, kind):
        raise OSError(errno.EIO, "Input/output error", opened.name)

    monkeypatch.setattr(hashlib, "file_digest", broken)
    with pytest.raises(InputError, match=r"cannot read .*config\.json: Input/output error"):
        fingerprint(write(tmp_path / "model", config__json="{}"))


# read once


def test_a_large_file_is_read_once(tmp_path, settled, read):
    path = large(tmp_path / "model.gguf")
    assert fingerprint(path) == fingerprint(path)
    assert read == ["model.gguf"]
    folder = tmp_path / "model"
    folder.mkdir()
    large(folder / "a.safetensors")
    large(folder / "b.safetensors", fill=1)
    first = fingerprint(folder)
    del read[:]
    assert fingerprint(folder) == first
    assert read == []


def test_a_small_file_is_read_again_and_not_kept(tmp_path, settled, read, kept):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(bytes(LARGE - 1))
    assert fingerprint(path) == fingerprint(path)
    assert read == ["prompts.jsonl"] * 2
    assert not kept.exists()


def replaced(path: Path) -> None:
    """Put another file of the same size and time in its place."""
    found = path.stat()
    other = large(path.with_name("other"), fill=7)
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)


def set_back(path: Path) -> None:
    """Change bytes in place, and set the time back to what it was."""
    found = path.stat()
    time.sleep(0.05)  # more than the clock of a file system needs
    large(path, fill=7)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_mtime_ns == found.st_mtime_ns


def grown(path: Path) -> None:
    found = path.stat()
    path.write_bytes(path.read_bytes() + b"7")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def later(path: Path) -> None:
    large(path, fill=7)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


@pytest.mark.parametrize("change", [replaced, set_back, grown, later])
def test_a_changed_file_is_read_again(tmp_path, settled, change: Callable[[Path], None]):
    path = large(tmp_path / "model.gguf")
    before = fingerprint(path)
    change(path)
    assert fingerprint(path) == hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() != before


def test_a_touched_file_is_read_again_and_replaces_what_was_kept(tmp_path, settled, read, kept):
    path = large(tmp_path / "model.gguf")
    before = fingerprint(path)
    os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    assert fingerprint(path) == before
    assert len(read) == 2
    assert list(entries(kept)) == [str(path)]


def test_a_file_that_was_changed_a_moment_ago_is_not_believed(tmp_path, monkeypatch, read, kept):
    path = large(tmp_path / "model.gguf")
    # a second change in the same tick of the clock would leave size and time as they are
    assert fingerprint(path) == fingerprint(path)
    assert len(read) == 2
    assert not kept.exists()
    os.utime(path, ns=(0, 0))  # the file says that it is old, and yet it was touched just now
    fingerprint(path)
    assert not kept.exists()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2.1)
    fingerprint(path)
    assert kept.exists()
    fingerprint(path)
    assert len(read) == 4


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path, settled, monkeypatch, kept):
    path, whole = large(tmp_path / "model.gguf"), hashlib.file_digest

    def meanwhile(opened, kind):
        found = whole(opened, kind)
        later(path)
        return found

    monkeypatch.setattr(hashlib, "file_digest", meanwhile)
    fingerprint(path)
    assert not kept.exists()


# the file of digests


def entries(kept: Path) -> dict:
    return json.loads(kept.read_text().split("\n")[1])


def test_the_newest_are_kept(tmp_path, settled, monkeypatch, kept):
    monkeypatch.setattr(fingerprints, "MOST", 3)
    paths = [large(tmp_path / f"{n}.gguf") for n in range(4)]
    for path in paths:
        fingerprint(path)
    assert list(entries(kept)) == list(map(str, paths[1:]))
    os.utime(paths[1], ns=(0, 0))
    fingerprint(paths[1])
    assert list(entries(kept)) == list(map(str, [paths[2], paths[3], paths[1]]))
    assert [path.name for path in kept.parent.iterdir() if path.suffix == ".part"] == []


def wrong_digest(content: bytes) -> bytes:
    digest = hashlib.blake2b(bytes(LARGE), digest_size=16).hexdigest().encode()
    assert digest in content
    return content.replace(digest, digest[::-1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content + b" ",
        lambda content: b"\xff\xfe\x00" + content,
        lambda content: b"[1, 2",
        wrong_digest,
    ],
)
def test_a_damaged_file_of_digests_is_none(tmp_path, settled, read, kept, damage: Callable[[bytes], bytes]):
    path = large(tmp_path / "model.gguf")
    before = fingerprint(path)
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert fingerprint(path) == before
    assert len(read) == 2
    assert kept.read_bytes() == whole


def test_a_write_that_fails_leaves_what_was_kept(tmp_path, settled, monkeypatch, kept):
    fingerprint(large(tmp_path / "one.gguf"))
    before = kept.read_bytes()

    def refused(*args):
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr("os.replace", refused)
    assert fingerprint(large(tmp_path / "two.gguf", fill=1)) is not None
    assert kept.read_bytes() == before
    assert [path.name for path in kept.parent.iterdir() if path.suffix == ".part"] == []


def under_a_file(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.parent.parent.write_text("a file where the cache should be")


def a_folder_in_its_place(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.mkdir(parents=True)


def read_only(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.parent.mkdir(parents=True)
    kept.parent.chmod(0o555)
    if os.access(kept.parent, os.W_OK):
        pytest.skip("whoever runs this may write everywhere")


def full(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", refused)


def locked(kept: Path, monkeypatch: pytest.MonkeyPatch) -> FileLock:
    kept.parent.mkdir(parents=True)
    lock = FileLock(f"{kept}.lock")
    lock.acquire()
    monkeypatch.setattr(fingerprints, "PATIENCE", 0.05)
    return lock  # held as long as somebody has it


def homeless(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", nowhere)


@pytest.mark.parametrize("hinder", [under_a_file, a_folder_in_its_place, read_only, full, locked, homeless])
def test_without_a_cache_a_file_is_read_again(tmp_path, settled, monkeypatch, read, kept, hinder):
    path = large(tmp_path / "model.gguf")
    held = hinder(kept, monkeypatch)
    assert fingerprint(path) == fingerprint(path) == hashlib.blake2b(bytes(LARGE), digest_size=16).hexdigest()
    assert len(read) == 2
    del held


PROCESS = """
import sys, time
from pathlib import Path
from lensdiff.inputs import fingerprints
fingerprints.SETTLED, fingerprints.LARGE = -10.0, 1
write = fingerprints._write

def slow(*what):  # so that the other process has the time to write between reading and writing
    time.sleep(0.01)
    write(*what)

fingerprints._write = slow
folder, go = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
print(fingerprints.fingerprint(folder))
"""


def test_two_processes_at_once_lose_nothing(tmp_path, kept):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        write(folder, **{f"{n:02}__safetensors": str(n) for n in range(20)})
    command = [sys.executable, "-c", PROCESS]
    both = [
        subprocess.Popen([*command, str(folder), str(tmp_path / "go")], stdout=subprocess.PIPE, text=True)
        for folder in folders
    ]
    assert [process.stdout.readline() for process in both if process.stdout] == ["ready\n"] * 2
    (tmp_path / "go").touch()
    said = [process.communicate(timeout=60)[0].strip() for process in both]
    assert said == [fingerprint(folder) for folder in folders]
    assert said[0] == said[1]
    assert set(entries(kept)) == {str(path) for folder in folders for path in folder.iterdir()}
