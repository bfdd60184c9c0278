"""What is kept of a bucket's bundles on this machine."""

import hashlib
import json
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.bundle import MANIFEST, publish
from engine.bundle_cache import BundleCache
from engine.errors import InvalidBundle, StoreUnavailable
from engine.store import BucketStore, LocalStore, Store, open_store
from tests.engine.bundles import bundle_files, write_small_bundle
from tests.google.gcs import CloudStorage

PREFIX = "fraud/v1.0.0"
LARGE = 1 << 30


@pytest.fixture
def source(bucket: str) -> BucketStore:
    return BucketStore(bucket, "artifacts", call_seconds=0.5, transfer_seconds=0.5)


@pytest.fixture
def cache(tmp_path: Path) -> BundleCache:
    return BundleCache(tmp_path / "bundles", LARGE)


def downloads(gcs: CloudStorage) -> int:
    return sum(call.startswith("GET /download") for call in gcs.calls)


def test_a_bundle_is_downloaded_once(
    source: BucketStore, cache: BundleCache, gcs: CloudStorage
) -> None:
    digest = write_small_bundle(source)
    assert cache.load(source, PREFIX, digest).manifest_sha256 == digest
    gcs.calls.clear()
    assert cache.load(source, PREFIX, digest).manifest_sha256 == digest
    assert gcs.calls == []


def test_of_several_workers_one_downloads(
    source: BucketStore, cache: BundleCache, gcs: CloudStorage
) -> None:
    digest = write_small_bundle(source)
    gcs.calls.clear()
    with ThreadPoolExecutor(4) as pool:
        entries = set(pool.map(lambda _: cache.fetch(source, PREFIX, digest), range(4)))
    assert len(entries) == 1
    files = len(source.list(PREFIX))
    assert downloads(gcs) == files + 1  # the manifest, to see which, and as a file


def test_without_the_bucket_what_is_here_loads(
    source: BucketStore, cache: BundleCache, gcs: CloudStorage
) -> None:
    digest = write_small_bundle(source)
    cache.load(source, PREFIX, digest)
    other = write_small_bundle(source, "fraud/v1.1.0", version="1.1.0")
    gcs.unreachable(60)
    assert cache.load(source, PREFIX, digest).manifest_sha256 == digest
    with pytest.raises(StoreUnavailable):
        cache.load(source, "fraud/v1.1.0", other)
    assert entries(cache) == {digest}


def test_what_another_process_evicts_before_it_is_loaded_is_fetched_again(
    source: BucketStore, tmp_path: Path
) -> None:
    class Robbed(BundleCache):
        fetches = 0

        def fetch(self, source: Store, location: str, manifest_sha256: str) -> Path:
            entry = super().fetch(source, location, manifest_sha256)
            self.fetches += 1
            if self.fetches == 1:
                shutil.rmtree(entry)
            return entry

    digest = write_small_bundle(source)
    cache = Robbed(tmp_path / "bundles", LARGE)
    assert cache.load(source, PREFIX, digest).manifest_sha256 == digest
    assert cache.fetches == 2


def entries(cache: BundleCache) -> set[str]:
    return {path.name for path in cache.root.iterdir() if path.name != "lock"}


@pytest.mark.parametrize("name", [MANIFEST, *bundle_files()])
def test_what_was_changed_here_is_downloaded_again(
    source: BucketStore, cache: BundleCache, name: str
) -> None:
    digest = write_small_bundle(source)
    path = cache.fetch(source, PREFIX, digest) / PREFIX / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    cache.load(source, PREFIX, digest)
    assert path.read_bytes() == source.read(f"{PREFIX}/{name}")


def test_a_file_that_is_gone_here_is_downloaded_again(
    source: BucketStore, cache: BundleCache
) -> None:
    digest = write_small_bundle(source)
    (cache.fetch(source, PREFIX, digest) / PREFIX / "baseline.json").unlink()
    cache.load(source, PREFIX, digest)


@pytest.mark.parametrize("name", [MANIFEST, "baseline.json", "supervised.treelite"])
def test_what_was_changed_in_the_bucket_is_refused_by_its_name(
    source: BucketStore, cache: BundleCache, name: str
) -> None:
    digest = write_small_bundle(source)
    source.write(f"{PREFIX}/{name}", b"{}")
    what = "manifest" if name == MANIFEST else f"file {name}"
    if name == "baseline.json":
        source.write(f"{PREFIX}/{name}", b"[]")
    with pytest.raises(InvalidBundle, match=rf"The {what} in {PREFIX} is not the one"):
        cache.load(source, PREFIX, digest)
    assert entries(cache) == set()


def test_what_is_missing_in_the_bucket_is_named(source: BucketStore, cache: BundleCache) -> None:
    digest = write_small_bundle(source)
    source.delete(f"{PREFIX}/baseline.json")
    with pytest.raises(InvalidBundle, match=rf"The bundle in {PREFIX} has no baseline\.json"):
        cache.load(source, PREFIX, digest)


def test_what_a_killed_process_left_is_cleared(source: BucketStore, cache: BundleCache) -> None:
    for name in ("new-1/fraud/v1.0.0", "old-2/fraud"):
        (cache.root / name).mkdir(parents=True)
    digest = write_small_bundle(source)
    cache.fetch(source, PREFIX, digest)
    assert entries(cache) == {digest}


class Sized:
    """A source of bundles of any size, made of one by giving its baseline that size."""

    def __init__(self, root: Path, template: Path) -> None:
        self.store = LocalStore(root)
        self.template = template
        self.digests: dict[int, str] = {}

    def add(self, number: int, size: int) -> str:
        """Have the bundle `number`; its manifest's digest."""
        if number not in self.digests:
            target = self.store.root / str(number)
            shutil.copytree(self.template, target)
            body = bytes(size)
            (target / "baseline.json").write_bytes(body)
            facts = json.loads((target / MANIFEST).read_bytes())
            digest = hashlib.sha256(body).hexdigest()
            facts["files"]["baseline.json"] = {"size": size, "sha256": digest}
            facts["version"] = f"1.0.{number}"
            manifest = json.dumps(facts).encode()
            (target / MANIFEST).write_bytes(manifest)
            self.digests[number] = hashlib.sha256(manifest).hexdigest()
        return self.digests[number]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    write_small_bundle(LocalStore(root), "whole")
    return root / "whole"


@settings(max_examples=40, deadline=None)
@given(
    uses=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    # Drawn from few: numbers drawn freely are mostly small ones, by which nothing would fit.
    sizes=st.lists(st.sampled_from([0, 50_000, 150_000, 300_000]), min_size=6, max_size=6),
    limit=st.sampled_from([0, 200_000, 350_000, 500_000, 700_000, 1_000_000, 1_500_000]),
)
def test_the_bound_holds_and_what_was_used_last_stays(
    template: Path, uses: list[int], sizes: list[int], limit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Sized(Path(folder) / "source", template)
        cache = BundleCache(Path(folder) / "cache", limit)
        recent: dict[str, int] = {}
        """By digest the bytes of what should be there, the last used first."""
        for number in uses:
            digest = source.add(number, sizes[number])
            cache.fetch(source.store, str(number), digest)
            whole = sum(facts.size for facts in source.store.describe_all(str(number)).values())
            recent = {digest: whole} | {k: v for k, v in recent.items() if k != digest}
            totals = list(accumulate(recent.values()))
            fits = sum(total <= limit for total in totals)
            recent = dict([*recent.items()][: max(1, fits)])
            assert entries(cache) == set(recent)
            held = sum(path.stat().st_size for path in cache.root.rglob("*") if path.is_file())
            assert held <= limit or len(recent) == 1


def test_two_bundles_of_one_place_are_told_apart(
    source: BucketStore, cache: BundleCache, tmp_path: Path
) -> None:
    """A folder that was written anew, as after a registration that was given up."""
    first = write_small_bundle(source)
    cache.load(source, PREFIX, first)
    for name in source.list(PREFIX):
        source.delete(name)
    second = write_small_bundle(source, training={"rows": 1})
    assert cache.load(source, PREFIX, second).manifest.training == {"rows": 1}


def test_of_two_that_publish_different_bundles_at_once_one_wins(
    bucket: str, tmp_path: Path
) -> None:
    made = []
    for rows in range(4):
        local = LocalStore(tmp_path / str(rows))
        made.append((local, write_small_bundle(local, training={"rows": rows})))
    target = open_store(f"gs://{bucket}/artifacts")

    def attempt(bundle: tuple[LocalStore, str]) -> str | None:
        local, digest = bundle
        try:
            publish(local, PREFIX, target, PREFIX, digest)
        except InvalidBundle:
            return None
        return digest

    with ThreadPoolExecutor(4) as pool:
        won = [digest for digest in pool.map(attempt, made) if digest]
    assert len(won) == 1
    assert BundleCache(tmp_path / "cache", LARGE).load(target, PREFIX, won[0])
