"""The conformance of both stores, and what only one of them can get wrong."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.errors import ObjectMissing
from engine.store import BucketStore, LocalStore, Store, open_store

CONTENT = bytes(range(256)) * 10


@pytest.fixture(params=["local", "bucket", "bucket root"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(tmp_path / "store")
    bucket = request.getfixturevalue("bucket")
    return open_store(f"gs://{bucket}/deep/er" if request.param == "bucket" else f"gs://{bucket}")


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


def test_a_change_sees_what_it_replaces(store: Store) -> None:
    assert store.change("a/pointer", lambda old: b"first" if old is None else b"?")
    assert store.change("a/pointer", lambda old: (old or b"") + b", second")
    assert not store.change("a/pointer", lambda _: None)
    assert store.read("a/pointer") == b"first, second"
    assert store.list() == ["a/pointer"]


def test_no_change_of_many_at_once_is_lost(store: Store) -> None:
    start = threading.Barrier(4)

    def count(_: int) -> None:
        start.wait()
        for _ in range(3):
            store.change("count", lambda old: b"%d" % (int(old or b"0") + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(4)))
    assert store.read("count") == b"12"


def test_listing_is_of_a_folder_at_any_depth(store: Store) -> None:
    names = ["b", "a/2", "a/10", "a/x/y", "ab/c"]
    for name in names:
        store.write(name, b"")
    assert store.list() == sorted(names)
    assert store.list("a") == ["a/10", "a/2", "a/x/y"]
    assert store.list("a/x") == ["a/x/y"]


def test_a_store_is_opened_again_by_its_location(store: Store) -> None:
    store.write("a", b"1")
    assert open_store(store.location).read("a") == b"1"


def test_a_file_is_uploaded_and_downloaded(store: Store, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "new" / "copy"
    moved: list[tuple[int, int]] = []
    for size in (0, 1, 1_000_000):
        source.write_bytes(os.urandom(size))
        assert store.upload("a/file", source, progress=lambda *step: moved.append(step))
        assert store.read("a/file") == source.read_bytes()
        assert not size or moved[-1] == (size, size)
        store.download("a/file", copy)
        assert copy.read_bytes() == source.read_bytes()
    assert sorted(path.name for path in copy.parent.iterdir()) == ["copy"]


def test_an_upload_can_be_the_first(store: Store, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    assert store.upload("x", first, if_absent=True)
    assert not store.upload("x", second, if_absent=True)
    assert not store.upload("x", first, if_absent=True)
    assert store.read("x") == b"1"
    assert store.upload("x", second)
    assert store.read("x") == b"2"


def test_what_is_not_there_is_not_downloaded(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    path.write_bytes(b"before")
    with pytest.raises(ObjectMissing, match="no a/b"):
        store.download("a/b", path)
    assert path.read_bytes() == b"before"


def test_an_object_is_described(store: Store) -> None:
    with pytest.raises(ObjectMissing, match="no a/b"):
        store.describe("a/b")
    before = datetime.now(UTC)
    store.write("a/b", CONTENT)
    store.write("a/c", b"")
    store.write("d", b"1")
    facts = store.describe("a/b")
    assert facts.size == len(CONTENT)
    assert abs(facts.updated - before) < timedelta(seconds=5)
    assert {name: facts.size for name, facts in store.describe_all("a").items()} == {
        "a/b": len(CONTENT), "a/c": 0,
    }  # fmt: skip
    assert [*store.describe_all()] == ["a/b", "a/c", "d"]


def test_content_is_compared_with_a_file(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert not store.holds("x", path)
    store.write("x", CONTENT)
    assert store.holds("x", path)
    store.write("x", CONTENT[:-1] + b"?")
    assert not store.holds("x", path)


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


def test_prefixes_do_not_see_each_other(bucket: str) -> None:
    first = open_store(f"gs://{bucket}/a")
    second = open_store(f"gs://{bucket}/ab")
    first.write("x", b"1")
    second.write("x", b"2")
    assert (first.list(), first.read("x"), second.read("x")) == (["x"], b"1", b"2")


def test_an_empty_folder_of_the_console_is_no_object(bucket: str) -> None:
    from google.cloud import storage

    for name in ("a/", "a/b/"):
        storage.Client().bucket(bucket).blob(name).upload_from_string(b"")
    store = open_store(f"gs://{bucket}/a")
    store.write("b/c", b"1")
    assert store.list() == ["b/c"]
    assert [*store.describe_all("b")] == ["b/c"]
