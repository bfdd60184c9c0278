"""A backend that uses the client → the engine under gunicorn → the database."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection, transaction

from clients.python.sentinelle_client import (
    Decision,
    EngineRefused,
    EngineUnavailable,
    Sentinelle,
)
from deployments import services
from scoring import history
from scoring.models import Attempt, Label, Outcome, PredictionRecord, ScoreRecord
from tests.clients.between import Between, Problem
from tests.engine.classifiers import INPUTS
from tests.scoring import classifiers
from tests.scoring.conftest import champion, registry  # noqa: F401 (fixtures)
from tests.scoring.requests import request
from tests.scoring.server import Server, gunicorn, in_parallel


@pytest.fixture(scope="module")
def process(
    django_db_setup: None, django_db_blocker: Any, tmp_path_factory: Any
) -> Iterator[Server]:
    """One gunicorn for the whole module. Tests empty its tables."""
    folder = tmp_path_factory.mktemp("server")
    with django_db_blocker.unblock(), gunicorn(folder, folder / "artifacts") as running:
        yield running


@pytest.fixture
def artifacts(process: Server) -> Path:
    """The store of the running server, emptied."""
    shutil.rmtree(process.artifacts, ignore_errors=True)
    return process.artifacts


@pytest.fixture
def network(process: Server, champion: Any) -> Iterator[Between]:  # noqa: F811
    """What lies between the backend and an engine with a champion."""
    time.sleep(2 * settings.LIVE_REFRESH_SECONDS + 0.3)  # it may still serve the last test's
    between = Between(process.port)
    yield between
    between.settle()
    between.close()


@pytest.fixture
def backend(network: Between) -> Sentinelle:
    """A client with a key of its own."""
    scopes = ["score", "labels"]
    _, key = services.api_key_create(name="backend", scopes=scopes, created_by="test")
    return Sentinelle(network.url, key, deadline=20, read_timeout=15)


def score(backend: Sentinelle, **changes: Any) -> Decision:
    """Decide the usual transaction with these changes."""
    body = request(**changes)
    return backend.score(body["transaction"], body["context"])


def test_from_the_backend_to_the_database(backend: Sentinelle) -> None:
    decision = score(backend, transaction_id="t1")
    record = ScoreRecord.objects.get(attempt__transaction_id="t1")
    assert (decision.decision, decision.risk_score) == (record.decision, record.risk_score)
    assert (decision.model_version, decision.is_replay) == ("v1.0.0", False)
    assert not decision.is_fallback
    again = score(backend, transaction_id="t1")
    assert (again.is_replay, again.risk_score) == (True, decision.risk_score)
    with pytest.raises(EngineRefused) as raised:
        score(backend, transaction_id="t1", amount=21.0)
    assert (raised.value.status, raised.value.code) == (409, "TRANSACTION_CONFLICT")

    blocked, refused, known = backend.score_many(
        [request(transaction_id="t2", amount=400.0), {"transaction": {}}, request(amount=1.0)]
    )
    assert (blocked.decision, blocked.reasons) == ("BLOCK", ("RULE_MAX_AMOUNT",))
    assert (refused.status, refused.code) == (400, "INVALID_REQUEST")
    assert known.decision == "APPROVE"

    receipt = backend.outcome("t1", "FAILED", "2026-01-23T12:00:05Z")
    assert (receipt.recorded, Outcome.objects.get().status) == (1, "FAILED")
    label = {"transaction_id": "t2", "label": "fraud", "known_at": "2026-02-01T00:00:00Z"}
    assert backend.labels([label, label | {"transaction_id": "t9"}]).unknown == ("t9",)
    assert Label.objects.filter(stated_by="backend").count() == 2
    assert backend.health().is_healthy


def test_answers_that_are_lost_are_asked_for_again(network: Between, backend: Sentinelle) -> None:
    network.then = ["late", "drop"]
    decision = score(backend, transaction_id="t1")
    assert decision.is_replay
    assert len(network.seen) == 3
    assert ScoreRecord.objects.count() == 1

    classifiers.register()
    classifiers.promote()
    network.then = ["late"]
    prediction = backend.predict("sponsor", INPUTS)
    assert prediction.is_replay
    kept = PredictionRecord.objects.get()
    assert kept.request_id == prediction.idempotency_key
    assert kept.prediction == prediction.answer["recommended_sponsor"]
    assert kept.caller == "backend"


@contextmanager
def everything_is_held() -> Iterator[None]:
    """Nobody else may decide until the block ends."""
    with ExitStack() as stack:
        stack.enter_context(transaction.atomic())
        if connection.vendor == "sqlite":
            Label.objects.filter(pk=0).exists()  # BEGIN IMMEDIATE took the lock of the file
        else:
            history.lock(["alice"])
        yield


def test_server_killed_in_mid_request_and_a_retry_give_one_record(
    process: Server, network: Between, backend: Sentinelle
) -> None:
    decisions: list[Decision] = []
    with everything_is_held():
        caller = threading.Thread(
            target=lambda: decisions.append(score(backend, transaction_id="t1"))
        )
        caller.start()
        while not network.seen:
            time.sleep(0.01)
        time.sleep(0.3)  # the request waits for its wallet
        for pid in process.worker_pids():
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
    caller.join()
    assert [decision.decision for decision in decisions] == ["APPROVE"]
    assert len(network.seen) > 1
    assert Attempt.objects.count() == ScoreRecord.objects.count() == 1


def test_server_that_hangs_is_not_waited_for_beyond_the_deadline(
    network: Between, backend: Sentinelle
) -> None:
    body = request()
    with everything_is_held():
        started = time.monotonic()
        with pytest.raises(EngineUnavailable):
            backend.score(body["transaction"], deadline=0.5)
        decision = backend.score(body["transaction"], deadline=0.5, fallback="REVIEW")
        assert time.monotonic() - started < 4
    assert (decision.decision, decision.is_fallback) == ("REVIEW", True)
    network.settle()
    real = backend.score(body["transaction"])
    assert (real.decision, real.is_fallback) == ("APPROVE", False)
    assert ScoreRecord.objects.get().decision == "APPROVE"


def test_overload_then_an_answer(network: Between, backend: Sentinelle) -> None:
    network.then = [Problem(503, {"Retry-After": "0"}, {"code": "DATABASE_UNAVAILABLE"})]
    assert score(backend).decision == "APPROVE"
    assert ScoreRecord.objects.count() == 1


def test_one_client_of_many_threads(network: Between, backend: Sentinelle) -> None:
    def work(number: int) -> list[str]:
        changes = {"source_wallet_id": f"w{number}", "destination_wallet_id": f"s{number}"}
        return [score(backend, **changes).decision for _ in range(5)]

    assert in_parallel(12, work) == [["APPROVE"] * 5] * 12
    assert ScoreRecord.objects.count() == 60
