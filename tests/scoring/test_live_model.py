"""What a process serves after promotions, rollbacks, refusals and pins."""

import logging
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from deployments import services
from deployments.models import ModelVersion, RegisteredModel, RuleSet
from engine.errors import InvalidBundle, NoModel
from scoring.live_model import LiveModel, Serving
from tests import bundles
from tests.scoring.conftest import Api
from tests.scoring.requests import request


def version(live: LiveModel) -> str:
    live.refresh()
    return live.serving().scorer.model_version


def tamper(row: ModelVersion, name: str = "supervised.treelite") -> Path:
    """Flip one bit of a file of a bundle."""
    path = Path(django_settings.ARTIFACTS_DIR, row.location, name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


@pytest.fixture
def live(champion: Any, settings: Any) -> LiveModel:
    settings.LIVE_REFRESH_SECONDS = 3_600  # only when a test asks
    return LiveModel()


def test_it_follows_promotions_and_rollbacks(live: LiveModel) -> None:
    assert version(live) == "v1.0.0"
    bundles.register("1.1.0")
    assert version(live) == "v1.0.0"
    bundles.promote("1.1.0")
    assert version(live) == "v1.1.0"
    model = RegisteredModel.objects.get(name="fraud")
    services.rollback(model=model, actor="test", reason="worse")
    assert version(live) == "v1.0.0"


def test_nothing_is_loaded_when_nothing_moved(live: LiveModel) -> None:
    live.refresh()
    first = live.serving()
    live.refresh()
    assert live.serving() is first


def test_rules_move_without_loading_the_bundle_again(live: LiveModel) -> None:
    live.refresh()
    first = live.serving()
    row = services.rule_set_create(name="strict", source="", created_by="test")
    model = RegisteredModel.objects.get(name="fraud")
    services.rule_set_promote(model=model, rule_set=row, actor="test", reason="for a test")
    live.refresh()
    assert live.serving().rule_set_id == row.pk
    assert live.serving().bundle is first.bundle


@pytest.mark.parametrize(
    "name", ["supervised.treelite", "unsupervised.treelite", "manifest.json", "thresholds.json"]
)
def test_tampered_bundle_is_refused_once_and_the_old_one_keeps_serving(
    live: LiveModel, caplog: Any, monkeypatch: Any, name: str
) -> None:
    monkeypatch.setattr("scoring.following.RETRY_SECONDS", 0.0)  # tried again, told once
    live.refresh()
    row = bundles.register("1.1.0")
    bundles.promote("1.1.0")
    tamper(row, name)
    caplog.clear()
    for _ in range(3):
        assert version(live) == "v1.0.0"
    errors = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "v1.1.0" in errors[0].getMessage()
    assert "v1.0.0 keeps serving" in errors[0].getMessage()
    assert errors[0].exc_info is None or not errors[0].exc_info
    assert live.health().reason == ""


def test_restored_bundle_is_served(live: LiveModel, monkeypatch: Any) -> None:
    monkeypatch.setattr("scoring.following.RETRY_SECONDS", 0.0)
    live.refresh()
    row = bundles.register("1.1.0")
    bundles.promote("1.1.0")
    path = tamper(row)
    assert version(live) == "v1.0.0"
    tamper(row)
    assert path.exists()
    assert version(live) == "v1.1.0"


def test_tampered_first_bundle_serves_nothing_and_health_says_so(live: LiveModel) -> None:
    tamper(ModelVersion.objects.get())
    live.refresh()
    with pytest.raises(NoModel, match=r"v1\.0\.0 is live but did not load"):
        live.serving()
    assert live.health().reason


def test_rule_set_that_is_not_what_was_registered_is_refused(live: LiveModel) -> None:
    live.refresh()
    serving = live.serving()
    version_row = ModelVersion.objects.select_related("model").get()
    live._load(version_row, RuleSet(pk=99, name="changed", source="# x", sha256="0" * 64))
    assert live.serving() is serving


class TestPinned:
    def test_it_stays_at_its_version(self, live: LiveModel, settings: Any) -> None:
        settings.MODEL_VERSION = "1.0.0"
        bundles.register("1.1.0")
        bundles.promote("1.1.0")
        assert version(live) == "v1.0.0"

    def test_it_follows_the_rules(self, live: LiveModel, settings: Any) -> None:
        settings.MODEL_VERSION = "1.0.0"
        live.refresh()
        row = services.rule_set_create(name="strict", source="", created_by="test")
        model = RegisteredModel.objects.get(name="fraud")
        services.rule_set_promote(model=model, rule_set=row, actor="test", reason="for a test")
        live.refresh()
        assert live.serving().rule_set_id == row.pk

    def test_unknown_version_is_no_model(self, live: LiveModel, settings: Any) -> None:
        settings.MODEL_VERSION = "9.9.9"
        live.refresh()
        with pytest.raises(NoModel, match=r"9\.9\.9"):
            live.serving()

    def test_it_waits_for_the_version_to_be_registered(
        self, live: LiveModel, settings: Any
    ) -> None:
        settings.MODEL_VERSION = "2.0.0"
        live.refresh()
        bundles.register("2.0.0")
        assert version(live) == "v2.0.0"


def test_silent_registry_makes_health_say_so(live: LiveModel, monkeypatch: Any) -> None:
    live.refresh()
    monkeypatch.setattr("scoring.live_model.STALE_SECONDS", 0.0)
    assert live.health().reason == "The database is out of reach."
    assert live.health().model_version == "v1.0.0"


def test_loading_a_version_is_not_silence_of_the_registry(
    live: LiveModel, monkeypatch: Any
) -> None:
    live.refresh()
    bundles.register("1.1.0")
    bundles.promote("1.1.0")
    # As in a server, where the thread alone asks the registry.
    monkeypatch.setattr(live, "_refresh_without_thread", lambda: None)
    seen = []

    def slow_load(*_: Any) -> Serving:
        monkeypatch.setattr("scoring.live_model.STALE_SECONDS", 0.0)
        seen.append(live.health())
        monkeypatch.setattr("scoring.live_model.STALE_SECONDS", 3.0)
        raise InvalidBundle("too slow to wait for")

    monkeypatch.setattr("scoring.live_model._load", slow_load)
    live.refresh()
    assert seen == [("v1.0.0", "")]
    assert live.health() == ("v1.0.0", "")


def test_pin_to_a_version_of_a_sample_is_refused(live: LiveModel, settings: Any) -> None:
    bundles.register("1.1.0", deployable=False)
    settings.MODEL_VERSION = "1.1.0"
    live.refresh()
    assert "trained on a sample" in live.health().reason


def test_thread_follows_and_stops(live: LiveModel, settings: Any) -> None:
    settings.LIVE_REFRESH_SECONDS = 0.05
    live.start()
    try:
        assert live.serving().scorer.model_version == "v1.0.0"
        bundles.register("1.1.0")
        bundles.promote("1.1.0")
        for _ in range(200):
            if live.serving().scorer.model_version == "v1.1.0":
                break
            live._stop.wait(0.02)
        assert live.serving().scorer.model_version == "v1.1.0"
    finally:
        live.stop()


def test_answers_say_which_version_decided(api: Api, settings: Any) -> None:
    settings.LIVE_REFRESH_SECONDS = 0
    bundles.register("1.1.0")
    assert api.score(request()).json()["model_version"] == "v1.0.0"
    bundles.promote("1.1.0")
    assert api.score(request()).json()["model_version"] == "v1.1.0"
