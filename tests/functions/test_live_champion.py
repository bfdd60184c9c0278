"""What a server without a database takes from the store, when it looks, and what it keeps."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engine.champions import pointer_name
from engine.classifier.live import CHECK_SECONDS, REFUSED_SECONDS, RETRY_SECONDS, LiveChampion
from engine.errors import NoModel, ObjectDamaged, StoreUnavailable
from engine.store import LocalStore
from tests.engine.classifiers import CHURN, INPUTS, promote, write_small_classifier


class WatchedStore(LocalStore):
    """A folder that counts what is read, and fails or waits when it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[str] = []
        self.is_down = False
        self.gate = threading.Event()
        self.gate.set()

    def read(self, name: str) -> bytes:
        self.reads.append(name)
        self.gate.wait(10)
        if self.is_down:
            raise StoreUnavailable("The bucket does not answer.")
        return super().read(name)

    def loads(self) -> int:
        """How often a model was read."""
        return sum(name.endswith("model.treelite") for name in self.reads)


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(tmp_path)


def refuse(error: Exception) -> Callable[[str], bytes]:
    def read(_name: str) -> bytes:
        raise error

    return read


def version(champion: LiveChampion, now: float) -> str:
    return champion.get(now).manifest.version


def test_the_champion_is_loaded_once_and_without_what_people_read(store: WatchedStore) -> None:
    promote(store)
    champion = LiveChampion(store, "sponsor")
    assert store.reads == []
    for now in (0.0, 1.0, CHECK_SECONDS - 0.1):
        assert version(champion, now) == "1.0.0"
    read = [name.rpartition("/")[2] for name in store.reads]
    assert set(read) == {"champion.json", "manifest.json", "definition.toml", "model.treelite"}
    assert read.count("champion.json") == 1


def test_a_newer_champion_is_noticed_and_a_roll_back_too(store: WatchedStore) -> None:
    promote(store)
    champion = LiveChampion(store, "sponsor")
    assert version(champion, 0.0) == "1.0.0"
    digest = promote(store, "1.1.0", 2, seed=1)
    assert version(champion, CHECK_SECONDS - 1) == "1.0.0"
    assert version(champion, CHECK_SECONDS) == "1.1.0"
    assert champion.get(CHECK_SECONDS).manifest_sha256 == digest
    store.delete("sponsor/v1.0.0/manifest.json")
    promote(store, "1.0.0", 3)
    assert version(champion, 2 * CHECK_SECONDS) == "1.0.0"


def test_what_serves_is_not_read_again(store: WatchedStore) -> None:
    promote(store)
    champion = LiveChampion(store, "sponsor")
    for turn in range(5):
        champion.get(turn * CHECK_SECONDS)
    assert store.loads() == 1
    assert store.reads.count(pointer_name("sponsor")) == 5


def test_nothing_serves_until_something_is_promoted(store: WatchedStore) -> None:
    champion = LiveChampion(store, "sponsor")
    for now in (0.0, RETRY_SECONDS - 1):
        with pytest.raises(NoModel, match="No version of “sponsor” has been promoted"):
            champion.get(now)
    assert len(store.reads) == 1
    promote(store)
    assert version(champion, RETRY_SECONDS) == "1.0.0"


def test_an_outage_keeps_what_serves(store: WatchedStore, caplog: Any) -> None:
    champion = LiveChampion(store, "sponsor")
    promote(store)
    store.is_down = True
    with pytest.raises(StoreUnavailable, match="does not answer"):
        champion.get(0.0)
    store.is_down = False
    assert version(champion, RETRY_SECONDS) == "1.0.0"
    promote(store, "1.1.0", 2, seed=1)
    store.is_down = True
    assert version(champion, 100.0) == "1.0.0"
    assert "can't be taken: The bucket does not answer. (v1.0.0 serves on)" in caplog.text
    store.is_down = False
    assert version(champion, 100.0 + CHECK_SECONDS) == "1.1.0"


@pytest.mark.parametrize("fault", ["changed", "gone", "pointer", "unpromoted", "kind"])
def test_a_damaged_champion_keeps_what_serves(store: WatchedStore, fault: str, caplog: Any) -> None:
    promote(store)
    champion = LiveChampion(store, "sponsor")
    champion.get(0.0)
    promote(store, "1.1.0", 2, seed=1)
    model, good = "sponsor/v1.1.0/model.treelite", store.read(pointer_name("sponsor"))
    if fault == "changed":
        store.write(model, store.read(model)[:-1] + b"x")
    elif fault == "gone":
        store.delete(model)
    elif fault == "pointer":
        store.write(pointer_name("sponsor"), b"{")
    elif fault == "unpromoted":
        store.delete(pointer_name("sponsor"))
    else:
        store.write(pointer_name("sponsor"), good.replace(b"sponsor/v1.1.0", b"../../etc"))
    assert version(champion, CHECK_SECONDS) == "1.0.0"
    assert champion.get(CHECK_SECONDS).predict(INPUTS)["model_version"] == "v1.0.0"
    assert "v1.0.0 serves on" in caplog.text
    promote(store, "1.2.0", 3, seed=2)
    assert version(champion, 2 * CHECK_SECONDS) == "1.2.0"


def test_a_damaged_bundle_is_read_again_now_and_then(store: WatchedStore) -> None:
    promote(store)
    champion = LiveChampion(store, "sponsor")
    champion.get(0.0)
    promote(store, "1.1.0", 2, seed=1)
    model = "sponsor/v1.1.0/model.treelite"
    good = store.read(model)
    store.write(model, good[:-1] + b"x")
    store.reads.clear()
    for turn in range(1, 5):
        assert version(champion, turn * CHECK_SECONDS) == "1.0.0"
    assert store.loads() == 1
    store.write(model, good)
    assert version(champion, CHECK_SECONDS + REFUSED_SECONDS) == "1.1.0"


def test_a_first_champion_that_is_damaged_is_no_model(store: WatchedStore) -> None:
    promote(store)
    store.write("sponsor/v1.0.0/definition.toml", CHURN.encode())
    champion = LiveChampion(store, "sponsor")
    with pytest.raises(NoModel, match=r"can't be used: .*definition.toml .* not the one in the"):
        champion.get(0.0)


def test_who_asks_is_not_told_where_the_store_is(store: WatchedStore, caplog: Any) -> None:
    for error in (StoreUnavailable, ObjectDamaged):
        store.read = refuse(error("robot@secret may not read gs://secret/a"))  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable) as raised:
            LiveChampion(store, "sponsor").get(0.0)
        assert raised.value.code == "STORE_UNAVAILABLE"
        assert "secret" not in raised.value.detail
        assert "robot@secret may not read gs://secret/a" in caplog.text
        caplog.clear()


def test_an_error_that_many_get_keeps_nothing_of_them(store: WatchedStore) -> None:
    champion = LiveChampion(store, "sponsor")
    depths = set()
    for _ in range(3):
        with pytest.raises(NoModel) as raised:
            champion.get(0.0)
        depths.add(len(raised.traceback))
    assert len(depths) == 1


def test_many_first_calls_download_once(store: WatchedStore) -> None:
    promote(store)
    champion = LiveChampion(store, "sponsor")
    with ThreadPoolExecutor(8) as callers:
        store.gate.clear()
        # However long it takes.
        waiting = [callers.submit(champion.get, turn * CHECK_SECONDS) for turn in range(8)]
        time.sleep(0.05)
        store.gate.set()
        found = [each.result(10) for each in waiting]
    assert len({id(bundle) for bundle in found}) == 1
    assert store.loads() == store.reads.count(pointer_name("sponsor")) == 1


def test_nobody_waits_long_for_a_newer_one(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.classifier.live.PATIENCE_SECONDS", 0.05)
    promote(store)
    champion = LiveChampion(store, "sponsor")
    champion.get(0.0)
    promote(store, "1.1.0", 2, seed=1)
    store.gate.clear()
    try:
        for now in (CHECK_SECONDS, CHECK_SECONDS + 1, 10 * CHECK_SECONDS):
            assert version(champion, now) == "1.0.0"
    finally:
        store.gate.set()
    deadline = time.monotonic() + 10
    while version(champion, CHECK_SECONDS + 2) != "1.1.0":
        assert time.monotonic() < deadline


def test_only_who_began_the_look_waits_for_it(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.classifier.live.PATIENCE_SECONDS", 30.0)
    promote(store)
    champion = LiveChampion(store, "sponsor")
    champion.get(0.0)
    promote(store, "1.1.0", 2, seed=1)
    store.gate.clear()
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(version, champion, CHECK_SECONDS)
        while store.reads[-1:] != [pointer_name("sponsor")]:
            time.sleep(0.001)
        try:
            assert callers.submit(version, champion, CHECK_SECONDS).result(5) == "1.0.0"
            assert not first.done()
        finally:
            store.gate.set()
        assert first.result(10) == "1.1.0"


def test_another_model_of_the_same_store(store: WatchedStore) -> None:
    promote(store)
    write_small_classifier(store, "churn/v1.0.0", definition=CHURN)
    with pytest.raises(NoModel):
        LiveChampion(store, "churn").get(0.0)
