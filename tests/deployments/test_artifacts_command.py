"""`manage.py artifacts`, on a folder and on a bucket."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from deployments.models import ModelVersion
from engine.bundle import verify_bundle
from engine.store import LocalStore, Store, open_store
from tests import bundles
from tests.engine.bundles import write_small_bundle
from tests.google.gcs import CloudStorage

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("artifacts", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def refused(*arguments: str) -> str:
    with pytest.raises(CommandError) as raised:
        run(*arguments)
    assert raised.value.returncode == 1
    return str(raised.value)


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, settings: Any, tmp_path: Path) -> Store:
    """The artefact store, with the versions 1.0.0 and 1.1.0."""
    bundles.seed_registry()
    settings.BUNDLE_CACHE = tmp_path / "cache"
    if request.param == "folder":
        settings.ARTIFACTS_DIR = str(tmp_path / "artifacts")
    else:
        request.getfixturevalue("cloud_folders")
    bundles.register("1.0.0")
    bundles.register("1.1.0")
    return open_store(settings.ARTIFACTS_DIR)


def test_the_list_sets_versions_beside_what_is_stored(store: Store, settings: Any) -> None:
    write_small_bundle(store, "fraud/v0.9.0", version="0.9.0")
    store.write("other/v1/baseline.json", b"{}")
    for name in store.list("fraud/v1.1.0"):
        store.delete(name)
    lines = run("list").splitlines()
    found = {line.split()[0]: line for line in lines[:-1]}
    assert [*found] == ["fraud/v0.9.0", "fraud/v1.0.0", "fraud/v1.1.0", "other/v1"]
    assert "not registered" in found["fraud/v0.9.0"]
    assert " 7 files " in found["fraud/v1.0.0"]
    assert found["fraud/v1.0.0"].endswith("ok")
    assert found["fraud/v1.1.0"].endswith("missing")
    assert found["other/v1"].endswith("incomplete, not registered")
    assert lines[-1].startswith("4 bundles, ")
    assert settings.ARTIFACTS_DIR in lines[-1]
    store.delete("fraud/v1.0.0/manifest.json")
    assert run("list").splitlines()[1].endswith("incomplete")


def test_what_is_pulled_is_the_bundle(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "here" / "v1.1.0"
    assert f"fraud v1.1.0 is in {folder}: 7 files" in run("pull", "fraud", "v1.1.0", str(folder))
    row = ModelVersion.objects.get(version="1.1.0")
    verify_bundle(LocalStore(folder.parent), "v1.1.0", row.manifest_sha256)
    assert [path.name for path in folder.parent.iterdir()] == ["v1.1.0"]
    assert "not an empty folder" in refused("pull", "fraud", "1.1.0", str(folder))
    assert "v9.9.9 is not registered" in refused("pull", "fraud", "9.9.9", str(folder))


def test_nothing_is_left_of_a_pull_that_fails(store: Store, tmp_path: Path) -> None:
    store.write("fraud/v1.1.0/thresholds.json", b"{}")
    said = refused("pull", "fraud", "1.1.0", str(tmp_path / "here" / "v1.1.0"))
    assert "thresholds.json in fraud/v1.1.0 is not the one in the manifest" in said
    assert list((tmp_path / "here").iterdir()) == []


def test_a_machine_s_bundles_move_into_the_store(
    store: Store, tmp_path: Path, settings: Any
) -> None:
    former = tmp_path / "former"
    for version in ("1.0.0", "1.1.0"):
        run("pull", "fraud", version, str(former / "fraud" / f"v{version}"))
    write_small_bundle(LocalStore(former), "fraud/v0.9.0", version="0.9.0")
    for name in store.list():
        store.delete(name)
    said = run("push", str(former))
    assert "fraud/v1.0.0 is stored and verified." in said
    assert "fraud/v0.9.0 is stored and verified (no version of the registry" in said
    assert all(line.endswith(": ok") for line in run("verify", "--all").splitlines())
    assert run("push", str(former)).count("was there already") == 3


def test_a_push_goes_on_where_it_was_interrupted(store: Store, tmp_path: Path) -> None:
    run("pull", "fraud", "1.1.0", str(tmp_path / "b"))
    for name in ("manifest.json", "baseline.json"):
        store.delete(f"fraud/v1.1.0/{name}")
    assert "is stored and verified" in run("push", str(tmp_path / "b"))
    assert run("verify", "fraud", "1.1.0") == "fraud v1.1.0: ok\n"


def test_a_push_writes_over_nothing(store: Store, tmp_path: Path) -> None:
    run("pull", "fraud", "1.1.0", str(tmp_path / "b"))
    store.write("fraud/v1.1.0/baseline.json", b"[1]")
    assert "baseline.json is there already, with other content" in refused(
        "push", str(tmp_path / "b")
    )
    assert store.read("fraud/v1.1.0/baseline.json") == b"[1]"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "baseline.json").write_bytes(b"[]"), "file baseline.json in b"),
        (lambda folder: (folder / "baseline.json").unlink(), "has no baseline.json"),
        (lambda folder: (folder / "manifest.json").unlink(), "There is no bundle in"),
        (
            lambda folder: (folder / "manifest.json").write_bytes(
                (folder / "manifest.json").read_bytes() + b" "
            ),
            "is not the bundle that is registered as fraud v1.1.0",
        ),
    ],
    ids=["changed", "incomplete", "no manifest", "another"],
)
def test_what_is_not_a_bundle_of_ours_is_not_pushed(
    store: Store, tmp_path: Path, spoil: Callable[[Path], Any], said: str
) -> None:
    run("pull", "fraud", "1.1.0", str(tmp_path / "b"))
    spoil(tmp_path / "b")
    assert said in refused("push", str(tmp_path / "b"))


def test_verifying_names_the_file_that_is_wrong(store: Store) -> None:
    assert run("verify", "fraud") == "fraud v1.0.0: ok\nfraud v1.1.0: ok\n"
    store.write("fraud/v1.0.0/supervised.treelite", b"other")
    out = StringIO()
    with pytest.raises(CommandError, match="1 of the bundles"):
        call_command("artifacts", "verify", "--all", stdout=out)
    assert "fraud v1.0.0: The file supervised.treelite in fraud/v1.0.0 is not" in out.getvalue()
    assert "fraud v1.1.0: ok" in out.getvalue()
    assert run("verify", "fraud", "1.1.0") == "fraud v1.1.0: ok\n"


@pytest.mark.parametrize("arguments", [[], ["fraud", "--all"]])
def test_verify_is_told_what(db: None, arguments: list[str]) -> None:
    assert "Name a model" in refused("verify", *arguments)


def test_a_bucket_that_refuses_is_told(
    cloud_folders: str, gcs: CloudStorage, settings: Any, tmp_path: Path
) -> None:
    bundles.seed_registry()
    gcs.revoke()
    assert "was refused: 403" in refused("list")
