"""MODEL/champion.json beside the bundles: written after each move, mended, never an older one."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from django.db import connection
from django.utils import timezone
from msgspec.structs import replace

from deployments import services
from deployments.models import PromotionEvent, RegisteredModel
from deployments.pointers import pointers_mend
from deployments.stored_bundles import bundles_listed
from engine.champions import Champion, pointer_name, read_champion, write_champion
from engine.errors import NoModel
from engine.store import open_store
from tests import bundles, classifiers

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def store(transactional_db, artifacts_dir):
    bundles.seed_registry()
    return open_store(artifacts_dir)


def told(store, model="sponsor"):
    return read_champion(store, model).version


def rollback(model):
    services.rollback(model=model, actor="ana", reason="worse")


def test_it_follows_each_promotion_and_rollback(store):
    first, second = classifiers.register("1.0.0"), classifiers.register("1.1.0", seed=1)
    with pytest.raises(NoModel):
        read_champion(store, "sponsor")
    classifiers.promote("1.0.0")
    found = read_champion(store, "sponsor")
    assert (found.model, found.version) == ("sponsor", "1.0.0")
    assert (found.location, found.manifest_sha256) == (first.location, first.manifest_sha256)
    assert found.promotion == PromotionEvent.objects.get().pk
    classifiers.promote("1.1.0")
    assert told(store) == "1.1.0"
    rollback(second.model)
    assert told(store) == "1.0.0"
    assert read_champion(store, "sponsor").promotion == PromotionEvent.objects.first().pk


def test_every_kind_has_one_and_none_is_taken_for_a_bundle(store):
    bundles.register("1.0.0")
    bundles.promote("1.0.0")
    assert told(store, "fraud") == "1.0.0"
    assert [each.location for each in bundles_listed()] == ["fraud/v1.0.0"]


def test_a_proposal_does_not_move_it(store):
    classifiers.register("1.0.0")
    classifiers.promote("1.0.0")
    version = classifiers.register("1.1.0", seed=1)
    services.version_propose(version=version, actor="ana", reason="new")
    pointers_mend()
    assert told(store) == "1.0.0"


@pytest.mark.parametrize("left", [None, b"{", b'{"model": "sponsor"}'], ids=["gone", "cut", "odd"])
def test_what_is_missing_or_damaged_is_mended(store, left):
    classifiers.register("1.0.0")
    classifiers.promote("1.0.0")
    name = pointer_name("sponsor")
    store.delete(name)
    if left is not None:
        store.write(name, left)
    assert pointers_mend() == 1
    assert told(store) == "1.0.0"
    assert pointers_mend() == 0


def test_an_older_promotion_never_takes_the_place_of_a_later_one(store):
    facts = {"model": "sponsor", "location": "sponsor/v1", "manifest_sha256": "0" * 64}
    later = Champion(version="1.1.0", promotion=7, **facts)
    assert write_champion(store, later)
    assert not write_champion(store, Champion(version="1.0.0", promotion=6, **facts))
    assert not write_champion(store, later)
    assert read_champion(store, "sponsor") == later


FOREIGN = Champion(
    model="sponsor",
    version="9.0.0",
    location="sponsor/v9",
    manifest_sha256="0" * 64,
    promotion=10**6,
)


def test_a_later_one_of_another_registry_stays_and_is_told(store, caplog):
    classifiers.register("1.0.0")
    later = replace(FOREIGN, promoted_at=timezone.now() + timedelta(hours=1))
    write_champion(store, later)
    bundles.register("1.0.0")
    bundles.promote("1.0.0")  # of another model: its number tells nothing
    assert not caplog.text
    classifiers.promote("1.0.0")
    assert read_champion(store, "sponsor") == later
    assert "v9.0.0 serves, by promotion 1000000 of another registry" in caplog.text
    assert "nothing is written over it" in caplog.text
    store.delete(pointer_name("sponsor"))
    assert pointers_mend() == 1
    assert told(store) == "1.0.0"


def test_an_earlier_one_of_another_registry_is_written_over_whatever_its_number(store, caplog):
    # As in a new database beside an old bucket: its promotions are numbered from 1 again.
    classifiers.register("1.0.0")
    write_champion(store, replace(FOREIGN, promoted_at=timezone.now() - timedelta(hours=1)))
    classifiers.promote("1.0.0")
    assert told(store) == "1.0.0"
    assert "The one here is later, and was written over it." in caplog.text
    caplog.clear()
    assert pointers_mend() == 0
    assert not caplog.text


def test_of_one_registry_the_number_counts_and_not_the_clock(store):
    # The clocks of two servers differ.
    first = replace(FOREIGN, promotion=1, promoted_at=timezone.now())
    second = replace(first, promotion=2, promoted_at=first.promoted_at - timedelta(seconds=1))
    write_champion(store, first, lambda _told: True)
    assert not write_champion(store, second, lambda _told: False)
    assert write_champion(store, second, lambda _told: True)
    assert not write_champion(store, first, lambda _told: True)


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_of_many_writers_at_once_the_latest_promotion_stays(where, request, tmp_path):
    if where == "bucket":
        location = f"gs://{request.getfixturevalue('bucket')}/artifacts"
    else:
        location = str(tmp_path)
    start = threading.Barrier(6)
    seen: list[int] = []

    def write(promotion):
        champion = Champion(
            model="sponsor",
            version=f"1.{promotion}.0",
            location="sponsor/v1",
            manifest_sha256="0" * 64,
            promotion=promotion,
        )
        start.wait()
        write_champion(open_store(location), champion)
        seen.append(read_champion(open_store(location), "sponsor").promotion)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(1, 7)))
    assert read_champion(open_store(location), "sponsor").promotion == 6
    assert min(seen) >= 1
    assert sum(promotion == 6 for promotion in seen) >= 1


def test_a_store_that_does_not_answer_stops_no_promotion(store, settings, gcs, bucket, caplog):
    classifiers.register("1.0.0")
    settings.ARTIFACTS_DIR = f"gs://{bucket}/artifacts"
    for name in store.list():
        open_store(settings.ARTIFACTS_DIR).write(name, store.read(name))
    gcs.revoke("champion")
    classifiers.promote("1.0.0")
    assert "could not be written" in caplog.text
    assert PromotionEvent.objects.count() == 1
    gcs.calm()
    assert pointers_mend() == 1
    assert told(open_store(settings.ARTIFACTS_DIR)) == "1.0.0"


def test_promotions_at_once_leave_the_champion_of_the_registry(store):
    numbers = [f"1.{minor}.0" for minor in range(4)]
    for seed, number in enumerate(numbers):
        classifiers.register(number, seed=seed)
    start = threading.Barrier(len(numbers))

    def move(number):
        start.wait()
        try:
            classifiers.promote(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(len(numbers)) as pool:
        list(pool.map(partial(move), numbers))
    event = PromotionEvent.objects.first()
    found = read_champion(store, "sponsor")
    assert (found.promotion, found.version) == (event.pk, event.to_version.version)
    assert RegisteredModel.objects.get(name="sponsor").aliases.get().version == event.to_version
