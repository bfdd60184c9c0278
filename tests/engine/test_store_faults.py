"""A bucket that fails: what the store survives, what it refuses, and what it says.

The client library and the store's own uploads talk over a socket to an emulator behind a proxy that
enforces what Google enforces (tests.google.gcs).
"""

import base64
import os
import re
import socket
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from engine.errors import ObjectDamaged, ObjectMissing, StoreUnavailable
from engine.store import BucketStore, open_store
from tests.google.gcs import CloudStorage

CHUNK = 512 << 10
CHUNK_CALL = r"^PUT .*upload_id="
RANGE_CALL = r"^GET /download/"
FAULTS = ("RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE", "drop", "half", "late")


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("bucket", "resumable"):
        monkeypatch.setattr(f"engine.store.{module}.FIRST_DELAY", 0.01)


@pytest.fixture
def store(bucket: str) -> BucketStore:
    return BucketStore(bucket, "folder", call_seconds=5, transfer_seconds=5, chunk_bytes=CHUNK)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three chunks, the last one smaller."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(2 * CHUNK + 1000))
    return path


def impatient(bucket: str) -> BucketStore:
    return BucketStore(bucket, call_seconds=0.3, transfer_seconds=0.3, chunk_bytes=CHUNK)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.read("a") == b"1",
        lambda store: store.write("b", b"2") is None,
        lambda store: store.create_if_absent("b", b"2"),
        lambda store: store.exists("a"),
        lambda store: store.list() == ["a"],
        lambda store: store.describe("a").size == 1,
        lambda store: store.delete("b") is None,
    ],
    ids=["read", "write", "create", "exists", "list", "describe", "delete"],
)
def test_a_call_survives_a_fault(
    store: BucketStore, gcs: CloudStorage, fault: str, call: Callable[[BucketStore], bool]
) -> None:
    store.write("a", b"1")
    gcs.fault(r"/b/[^?]*/o", fault)
    assert call(store)


@pytest.mark.parametrize("if_absent", [False, True], ids=["replace", "if_absent"])
@pytest.mark.parametrize("fault", [*FAULTS, "cut"])
def test_an_upload_survives_a_fault_of_every_chunk(
    store: BucketStore, gcs: CloudStorage, file: Path, fault: str, if_absent: bool
) -> None:
    gcs.fault("POST .*uploadType=resumable", "late" if fault == "cut" else fault)
    for _ in range(3):
        gcs.fault(CHUNK_CALL, fault)
    assert store.upload("x", file, if_absent=if_absent)
    assert store.holds("x", file)


def test_a_chunk_that_half_arrived_is_not_sent_again_from_the_start(
    store: BucketStore, gcs: CloudStorage, file: Path
) -> None:
    gcs.fault(CHUNK_CALL, "cut")
    before = gcs.received
    store.upload("x", file)
    sent_twice = gcs.received - before - file.stat().st_size
    assert CHUNK // 2 <= sent_twice < CHUNK // 2 + 10_000
    assert store.holds("x", file)


def test_an_upload_goes_on_when_the_bucket_was_unreachable_in_the_middle(
    bucket: str, gcs: CloudStorage, file: Path
) -> None:
    store = BucketStore(bucket, call_seconds=1, transfer_seconds=10, chunk_bytes=CHUNK)
    gcs.fault(CHUNK_CALL, "slow", seconds=0)
    gcs.fault(CHUNK_CALL, "unreachable", seconds=3)
    steps: list[int] = []
    assert store.upload("x", file, progress=lambda done, _: steps.append(done))
    assert steps == [0, CHUNK, 2 * CHUNK, file.stat().st_size]
    assert store.holds("x", file)


def test_a_session_that_the_bucket_forgot_is_begun_anew(
    store: BucketStore, gcs: CloudStorage, file: Path
) -> None:
    gcs.fault(CHUNK_CALL, "NOT_FOUND")
    assert store.upload("x", file, if_absent=True)
    assert store.holds("x", file)


def test_an_upload_whose_last_answer_was_lost_for_ever_is_still_ours(
    store: BucketStore, gcs: CloudStorage, file: Path
) -> None:
    for fault in ("slow", "slow", "late"):
        gcs.fault(CHUNK_CALL, fault, seconds=0)
    gcs.fault(CHUNK_CALL, "NOT_FOUND")
    assert store.upload("x", file, if_absent=True)
    assert len([call for call in gcs.calls if call.startswith("POST")]) == 1


@pytest.mark.parametrize("fault", ["late", "half"])
def test_a_creation_whose_answer_was_lost_is_still_ours(
    store: BucketStore, gcs: CloudStorage, fault: str
) -> None:
    gcs.fault("POST /upload", fault)
    assert store.create_if_absent("claim", b"mine")
    assert not store.create_if_absent("claim", b"mine")


def test_of_two_uploads_at_once_one_wins(
    store: BucketStore, gcs: CloudStorage, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in "abcd"]
    for path in paths:
        path.write_bytes(os.urandom(2 * CHUNK))
    start = threading.Barrier(len(paths))

    def upload(path: Path) -> bool:
        start.wait()
        return store.upload("x", path, if_absent=True)

    with ThreadPoolExecutor(len(paths)) as pool:
        won = list(pool.map(upload, paths))
    assert sum(won) == 1
    assert store.holds("x", paths[won.index(True)])


def test_what_another_created_while_we_sent_stays(
    store: BucketStore, gcs: CloudStorage, file: Path
) -> None:
    def interfere(done: int, _total: int) -> None:
        if done == CHUNK:
            store.write("x", b"theirs")

    assert not store.upload("x", file, progress=interfere, if_absent=True)
    assert store.read("x") == b"theirs"


@pytest.mark.parametrize("fault", [*FAULTS, "damage"])
def test_a_download_survives_a_fault_of_every_range(
    store: BucketStore, gcs: CloudStorage, file: Path, tmp_path: Path, fault: str
) -> None:
    store.upload("x", file)
    gcs.fault(RANGE_CALL, fault, times=1 if fault == "damage" else 3)
    store.download("x", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()


def test_a_download_of_what_is_replaced_meanwhile_is_of_one_content(
    store: BucketStore, file: Path, tmp_path: Path
) -> None:
    store.upload("x", file)
    other = bytes(file.stat().st_size)

    def interfere(done: int, _total: int) -> None:
        if done == CHUNK and store.read("x") != other:
            store.write("x", other)

    store.download("x", tmp_path / "copy", progress=interfere)
    assert (tmp_path / "copy").read_bytes() == other


@pytest.mark.parametrize(
    "call",
    [
        lambda store, file: store.upload("x", file),
        lambda store, file: store.upload("x", file, if_absent=True),
        lambda store, file: store.write("x", b"1" * 1000),
        lambda store, file: store.create_if_absent("x", b"1" * 1000),
    ],
    ids=["upload", "upload if absent", "write", "create"],
)
def test_what_is_damaged_on_its_way_is_noticed(
    store: BucketStore, gcs: CloudStorage, file: Path, call: Callable[..., Any]
) -> None:
    gcs.fault("^PUT |uploadType=multipart", "damage", times=100)
    with pytest.raises(ObjectDamaged, match="is not what was sent"):
        call(store, file)
    gcs.calm()
    assert not store.exists("x")
    gcs.fault("^PUT |uploadType=multipart", "damage", times=2)
    assert call(store, file) in (True, None)


def test_a_download_that_is_always_damaged_is_refused(
    store: BucketStore, gcs: CloudStorage, tmp_path: Path
) -> None:
    store.write("x", b"1" * 1000)
    gcs.fault(RANGE_CALL, "damage", times=100)
    with pytest.raises(ObjectDamaged, match="x damaged it, 3 times"):
        store.download("x", tmp_path / "copy")
    with pytest.raises(ObjectDamaged, match="x damaged it, 3 times"):
        store.read("x")
    assert list(tmp_path.iterdir()) == []


def test_the_bucket_is_told_what_to_expect(
    store: BucketStore, gcs: CloudStorage, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong checksum of ours is refused by the server, so it was sent one."""
    wrong = base64.b64encode(google_crc32c.Checksum(b"other").digest()).decode()
    size = file.stat().st_size
    monkeypatch.setattr("engine.store.bucket._measure", lambda _: (size, wrong))
    with pytest.raises(ObjectDamaged, match="doesn't match calculated CRC32C"):
        store.upload("x", file)
    assert not store.exists("x")


def every_call(store: BucketStore, file: Path) -> dict[str, Callable[[], Any]]:
    return {
        "read": lambda: store.read("a"),
        "write": lambda: store.write("a", b""),
        "create": lambda: store.create_if_absent("a", b""),
        "upload": lambda: store.upload("a", file),
        "download": lambda: store.download("a", file.with_name("copy")),
        "exists": lambda: store.exists("a"),
        "describe": lambda: store.describe("a"),
        "holds": lambda: store.holds("a", file),
        "list": lambda: store.list(),
        "delete": lambda: store.delete("a"),
    }


def test_a_bucket_that_does_not_answer_is_unavailable_in_time(
    bucket: str, gcs: CloudStorage, file: Path
) -> None:
    gcs.unreachable(60)
    for call in every_call(impatient(bucket), file).values():
        with pytest.raises(StoreUnavailable, match=r"bucket|transferred"):
            call()


def test_a_server_that_never_answers_keeps_no_page_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when packets vanish: it takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("engine.store.bucket.TIMEOUT", (0.2, 0.2))
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="can't be used"):
            open_store("gs://bucket/x", seconds=0.5).read("a")
        assert time.monotonic() - began < 5


def test_an_upload_that_stops_moving_is_given_up_in_time(
    bucket: str, gcs: CloudStorage, file: Path
) -> None:
    gcs.fault(CHUNK_CALL, "slow", seconds=0)
    gcs.fault(CHUNK_CALL, "UNAVAILABLE", times=100)
    with pytest.raises(StoreUnavailable, match=r"took nothing for 0\.3 s .* 503"):
        impatient(bucket).upload("x", file)


def test_a_permission_that_is_revoked_is_told_with_the_remedy(
    store: BucketStore, gcs: CloudStorage, file: Path
) -> None:
    gcs.revoke()
    for call in every_call(store, file).values():
        with pytest.raises(StoreUnavailable, match=r"was refused: 403 .*roles/storage.objectUser"):
            call()


def test_a_permission_that_is_revoked_in_mid_upload_ends_it(
    store: BucketStore, gcs: CloudStorage, file: Path
) -> None:
    def revoke(done: int, _total: int) -> None:
        if done == CHUNK:
            gcs.revoke()

    with pytest.raises(StoreUnavailable, match=r"folder/x was refused: 403"):
        store.upload("x", file, progress=revoke)
    gcs.calm()
    assert not store.exists("x")


@pytest.mark.parametrize("fault", ["drop", "UNAVAILABLE", "PERMISSION_DENIED", "INVALID_ARGUMENT"])
def test_the_address_of_an_uploads_session_is_told_nobody(
    fault: str, bucket: str, gcs: CloudStorage, file: Path
) -> None:
    """Whoever has it may write, without an account; messages and logs are read by others."""
    gcs.fault(CHUNK_CALL, fault, times=100)
    with pytest.raises(StoreUnavailable) as refused:
        impatient(bucket).upload("x", file)
    logged = "".join(traceback.format_exception(refused.value))
    assert re.findall(r"upload_id=[\w-]+", logged) == []
    assert any(call.startswith("PUT ") and "upload_id=" in call for call in gcs.calls)


def test_a_bucket_that_does_not_exist_is_named(bucket: str, file: Path) -> None:
    store = open_store("gs://no-such-bucket/x")
    with pytest.raises(ObjectMissing):
        store.read("a")
    for call in (lambda: store.write("a", b""), lambda: store.upload("a", file)):
        with pytest.raises(StoreUnavailable, match="no bucket no-such-bucket"):
            call()


@pytest.mark.parametrize("chunk_bytes", [0, 1000, (256 << 10) + 1])
def test_chunks_are_what_google_takes(chunk_bytes: int) -> None:
    with pytest.raises(ValueError, match="256 KiB"):
        BucketStore("bucket", chunk_bytes=chunk_bytes)
