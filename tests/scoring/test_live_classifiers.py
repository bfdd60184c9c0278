"""What a process predicts with after promotions, rollbacks and refusals."""

import logging
import threading
from typing import Any

import pytest
from django.conf import settings as django_settings

from deployments import services
from deployments.models import RegisteredModel
from engine.errors import NoModel
from scoring import live_classifiers as module
from scoring.live_classifiers import LiveClassifiers
from tests.scoring import classifiers
from tests.scoring.conftest import Api
from tests.scoring.test_live_model import tamper


def version(live: LiveClassifiers, name: str = "sponsor") -> str:
    live.refresh()
    return f"v{live.predicting(name).bundle.manifest.version}"


@pytest.fixture
def live(sponsor: Api, settings: Any) -> LiveClassifiers:
    settings.LIVE_REFRESH_SECONDS = 3_600  # only when a test asks
    return LiveClassifiers()


def test_it_follows_promotions_and_rollbacks(live: LiveClassifiers) -> None:
    assert version(live) == "v1.0.0"
    classifiers.register("1.1.0")
    first = live.predicting("sponsor")
    assert version(live) == "v1.0.0"
    assert live.predicting("sponsor") is first  # nothing is loaded when nothing moved
    classifiers.promote("1.1.0")
    assert version(live) == "v1.1.0"
    model = RegisteredModel.objects.get(name="sponsor")
    services.rollback(model=model, actor="test", reason="worse")
    assert version(live) == "v1.0.0"


def test_one_that_was_asked_before_its_first_promotion(live: LiveClassifiers) -> None:
    classifiers.register(name="new")
    with pytest.raises(NoModel, match="“new”"):
        live.predicting("new")
    classifiers.promote(name="new")
    assert version(live, "new") == "v1.0.0"


def test_damaged_bundle_is_refused_once_and_the_old_one_keeps_serving(
    live: LiveClassifiers, caplog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("scoring.following.RETRY_SECONDS", 0.0)  # tried again, told once
    assert version(live) == "v1.0.0"
    row = classifiers.register("1.1.0")
    classifiers.promote("1.1.0")
    tamper(row, "model.treelite")
    caplog.clear()
    for _ in range(3):
        assert version(live) == "v1.0.0"
    [line] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "sponsor v1.1.0" in line.getMessage()
    assert "v1.0.0 keeps serving" in line.getMessage()
    tamper(row, "model.treelite")  # restored
    assert version(live) == "v1.1.0"


def test_damaged_first_bundle_is_no_model(live: LiveClassifiers) -> None:
    tamper(RegisteredModel.objects.get(name="sponsor").versions.get(), "model.treelite")
    with pytest.raises(NoModel, match=r"v1\.0\.0 is live but did not load"):
        live.predicting("sponsor")


def test_nothing_is_asked_of_the_registry_before_anybody_asked(
    live: LiveClassifiers, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        live.refresh()
    live.predicting("sponsor")
    with django_assert_num_queries(1):
        live.refresh()
    with django_assert_num_queries(0):
        live.predicting("sponsor")


def test_only_so_many_are_kept(live: LiveClassifiers, settings: Any) -> None:
    settings.LIVE_CLASSIFIERS = 2
    for name in ("second", "third"):
        classifiers.register(name=name)
        classifiers.promote(name=name)
    for name in ("sponsor", "second", "sponsor", "third"):
        live.predicting(name)
    assert live.loaded() == ["sponsor", "third"]
    assert version(live, "second") == "v1.0.0"
    assert live.loaded() == ["third", "second"]


def test_unknown_names_are_not_kept(live: LiveClassifiers) -> None:
    for name in ("nobody", "fraud"):
        with pytest.raises(module.UnknownModel):
            live.predicting(name)
    assert live.loaded() == []


def test_several_first_requests_load_once(live: LiveClassifiers, monkeypatch: Any) -> None:
    loads = []
    load = module._load
    monkeypatch.setattr(module, "_load", lambda row: loads.append(row) or load(row))
    monkeypatch.setattr(module, "champions", lambda names: rows)
    monkeypatch.setattr(module, "classifier_by_name", lambda name: rows[0].model)
    rows = list(RegisteredModel.objects.get(name="sponsor").versions.select_related("model"))
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(live.predicting("sponsor"))) for _ in range(8)
    ]
    monkeypatch.setattr(live, "_refresh_without_thread", lambda: None)  # as in a server
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len({id(each) for each in found}) == 1


def test_thread_follows_and_stops(live: LiveClassifiers, settings: Any) -> None:
    settings.LIVE_REFRESH_SECONDS = 0.05
    live.start()
    try:
        live.predicting("sponsor")
        classifiers.register("1.1.0")
        classifiers.promote("1.1.0")
        for _ in range(200):
            if live.predicting("sponsor").bundle.manifest.version == "1.1.0":
                break
            live._stop.wait(0.02)
        assert live.predicting("sponsor").bundle.manifest.version == "1.1.0"
    finally:
        live.stop()
    assert django_settings.LIVE_CLASSIFIERS == 4
