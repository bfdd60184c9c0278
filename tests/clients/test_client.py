"""The client alone: deadlines, second attempts, fallbacks, and what it sends."""

import ast
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clients.python import sentinelle_client as client_module
from clients.python.sentinelle_client import (
    EngineRefused,
    EngineUnavailable,
    GoogleIdToken,
    Sentinelle,
)
from tests.clients.between import Between, Problem

SOURCE = Path(client_module.__file__)
ANSWER = {
    "transaction_id": "t", "risk_score": 0.1, "decision": "APPROVE", "reasons": [],
    "model_version": "v1.0.0", "rule_score": 0.0, "supervised_score": 0.1,
    "unsupervised_score": 0.2,
}  # fmt: skip
OK = Problem(200, {}, ANSWER)
TRANSACTION = {"transaction_id": "t", "amount": 20.0}


def busy(status: int = 503, **headers: str) -> Problem:
    return Problem(status, {name.replace("_", "-"): value for name, value in headers.items()}, {})


@pytest.fixture
def engine() -> Iterator[Between]:
    """What answers as a test says."""
    between = Between()
    yield between
    between.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: Any) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.01)
    monkeypatch.delenv("ML_ENGINE_URL", raising=False)
    monkeypatch.delenv("ML_ENGINE_KEY", raising=False)


class TestTimes:
    @pytest.mark.parametrize("what", ["hang", "drip"])
    def test_deadline_is_kept(self, engine: Between, what: str) -> None:
        engine.then = [what] * 10
        started = time.monotonic()
        with pytest.raises(EngineUnavailable, match="did not answer in time"):
            Sentinelle(engine.url, deadline=0.5).score(TRANSACTION)
        assert 0.4 < time.monotonic() - started < 2

    def test_an_attempt_that_hangs_leaves_time_for_another(self, engine: Between) -> None:
        engine.then = ["hang", "drip", OK]
        client = Sentinelle(engine.url, read_timeout=0.4, deadline=10)
        assert client.score(TRANSACTION).decision == "APPROVE"
        assert len(engine.seen) == 3

    def test_each_call_may_have_its_own_deadline(self, engine: Between) -> None:
        engine.then = ["hang"] * 4
        client = Sentinelle(engine.url)
        for call in (
            lambda: client.score(TRANSACTION, deadline=0.1),
            lambda: client.predict("sponsor", {}, deadline=0.1),
            lambda: client.outcome("t", "SUCCESS", "2026-01-01T00:00:00Z", deadline=0.1),
            lambda: client.health(deadline=0.1),
        ):
            started = time.monotonic()
            with pytest.raises(EngineUnavailable):
                call()
            assert time.monotonic() - started < 1.5

    def test_nobody_there(self) -> None:
        with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:1 can't be reached") as raised:
            Sentinelle("http://127.0.0.1:1", attempts=3).score(TRANSACTION)
        assert raised.value.attempts == 3


class TestAttempts:
    @pytest.mark.parametrize(
        "first", [busy(503), busy(429), busy(500), busy(502), busy(504), "drop"], ids=range(6)
    )
    def test_what_another_moment_mends_is_tried_again(self, engine: Between, first: Any) -> None:
        engine.then = [first, first, OK]
        assert Sentinelle(engine.url).score(TRANSACTION).decision == "APPROVE"
        assert [seen.body for seen in engine.seen] == [engine.seen[0].body] * 3

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415])
    def test_what_is_refused_is_not(self, engine: Between, status: int) -> None:
        body = {"code": "SOME_CODE", "detail": "No.", "errors": [{"field": "a", "message": "b"}]}
        engine.then = [Problem(status, {}, body), OK]
        with pytest.raises(EngineRefused, match="SOME_CODE: No") as raised:
            Sentinelle(engine.url).score(TRANSACTION, fallback="REVIEW")
        assert (raised.value.status, raised.value.code) == (status, "SOME_CODE")
        assert raised.value.errors == body["errors"]
        assert len(engine.seen) == 1

    def test_a_redirect_is_not_followed_with_the_key(self, engine: Between) -> None:
        engine.then = [Problem(301, {"Location": "https://elsewhere.example/score"})]
        with pytest.raises(EngineRefused, match=r"elsewhere\.example.*ML_ENGINE_URL"):
            Sentinelle(engine.url, "sk_1").score(TRANSACTION)

    @pytest.mark.parametrize("status", [429, 503])
    def test_retry_after_is_waited_for(self, engine: Between, status: int) -> None:
        engine.then = [busy(status, Retry_After="1"), OK]
        started = time.monotonic()
        Sentinelle(engine.url).score(TRANSACTION)
        assert 1.0 <= time.monotonic() - started < 3

    def test_unless_the_deadline_comes_first(self, engine: Between) -> None:
        engine.then = [busy(429, Retry_After="60")]
        started = time.monotonic()
        with pytest.raises(EngineUnavailable) as raised:
            Sentinelle(engine.url).score(TRANSACTION)
        assert time.monotonic() - started < 5
        assert (raised.value.attempts, raised.value.retry_after) == (1, 60.0)

    def test_only_so_many(self, engine: Between) -> None:
        engine.then = [busy()] * 9
        with pytest.raises(EngineUnavailable, match="2 attempts"):
            Sentinelle(engine.url, attempts=2).score(TRANSACTION)
        assert len(engine.seen) == 2

    def test_a_page_of_a_proxy_is_no_answer(self, engine: Between) -> None:
        engine.then = [Problem(200, {}, "<html>")]
        with pytest.raises(EngineUnavailable, match="no JSON object"):
            Sentinelle(engine.url).score(TRANSACTION)

    @pytest.mark.parametrize(
        "answer",
        [{}, ANSWER | {"transaction_id": "u"}, ANSWER | {"decision": "HOLD"},
         ANSWER | {"reasons": None}],
        ids=["empty", "another's", "unknown", "cut"],
    )  # fmt: skip
    def test_a_success_that_decides_nothing_is_no_answer(
        self, engine: Between, answer: dict[str, Any]
    ) -> None:
        engine.then = [Problem(200, {}, answer)] * 2
        client = Sentinelle(engine.url)
        with pytest.raises(EngineUnavailable, match="no answer to /score"):
            client.score(TRANSACTION)
        decision = client.score(TRANSACTION, fallback="REVIEW")
        assert (decision.decision, decision.is_fallback) == ("REVIEW", True)

    @pytest.mark.parametrize(
        "results",
        [None, [], [{"status": 200, "answer": ANSWER}] * 2, [{"status": 409, "error": None}] * 2],
        ids=["none", "too few", "another's", "no error"],
    )
    def test_nor_is_a_batch_whose_results_are_not_those_of_what_was_sent(
        self, engine: Between, results: Any
    ) -> None:
        engine.then = [Problem(200, {}, {"results": results})] * 2
        sent = [{"transaction": {"transaction_id": name}} for name in ("t", "u")]
        client = Sentinelle(engine.url)
        with pytest.raises(EngineUnavailable, match="no answer to /score/batch"):
            client.score_many(sent)
        assert all(each.is_fallback for each in client.score_many(sent, fallback="BLOCK"))

    def test_nor_are_receipts_and_predictions_without_what_they_say(self, engine: Between) -> None:
        engine.then = [Problem(200, {}, {})] * 2
        client = Sentinelle(engine.url)
        with pytest.raises(EngineUnavailable, match="no answer to /labels"):
            client.labels([{"transaction_id": "t", "label": "fraud"}])
        with pytest.raises(EngineUnavailable, match="no answer to /models"):
            client.predict("sponsor", {})

    @pytest.mark.parametrize("errors", [None, "no", ["no"], {"a": 1}], ids=range(4))
    def test_a_refusal_of_a_proxy_is_one(self, engine: Between, errors: Any) -> None:
        engine.then = [Problem(403, {}, {"detail": "Not from here.", "errors": errors})]
        with pytest.raises(EngineRefused, match="Not from here") as raised:
            Sentinelle(engine.url).score(TRANSACTION)
        assert raised.value.errors == []

    def test_predictions_are_asked_again_under_one_key(self, engine: Between) -> None:
        engine.then = [busy(), Problem(200, {}, {"sponsor": "Volt", "model_version": "v1.0.0"})]
        prediction = Sentinelle(engine.url).predict("a model/é", {"zone": "VIP"})
        keys = {seen.headers["Idempotency-Key"] for seen in engine.seen}
        assert keys == {prediction.idempotency_key}
        assert engine.seen[0].path == "/models/a%20model%2F%C3%A9/predict"
        assert prediction.answer["sponsor"] == "Volt"


class TestFallback:
    def test_without_one_it_raises(self, engine: Between) -> None:
        engine.then = ["drop"] * 4
        with pytest.raises(EngineUnavailable):
            Sentinelle(engine.url).score(TRANSACTION)

    def test_it_is_marked_as_none_of_the_engines(self, engine: Between) -> None:
        engine.then = [busy()] * 4
        decision = Sentinelle(engine.url).score(TRANSACTION, fallback="REVIEW")
        assert (decision.transaction_id, decision.decision) == ("t", "REVIEW")
        assert decision.is_fallback
        assert "503" in decision.fallback_reason
        assert (decision.risk_score, decision.model_version) == (None, None)

    def test_a_real_one_is_not(self, engine: Between) -> None:
        engine.then = [OK]
        decision = Sentinelle(engine.url).score(TRANSACTION, fallback="BLOCK")
        assert (decision.decision, decision.is_fallback) == ("APPROVE", False)

    def test_of_many(self, engine: Between) -> None:
        engine.then = ["drop"] * 4
        requests = [{"transaction": {"transaction_id": name}} for name in "ab"]
        decisions = Sentinelle(engine.url).score_many(requests, fallback="REVIEW")
        assert [each.transaction_id for each in decisions] == ["a", "b"]
        assert all(each.is_fallback for each in decisions)

    def test_it_must_be_a_decision(self, engine: Between) -> None:
        with pytest.raises(ValueError, match="expected one of APPROVE, REVIEW, BLOCK"):
            Sentinelle(engine.url).score(TRANSACTION, fallback="ALLOW")
        assert engine.seen == []


class TestSending:
    def test_values_of_python(self, engine: Between) -> None:
        engine.then = [OK]
        at = datetime(2026, 1, 2, tzinfo=UTC)
        subject = {"transaction_id": "t", "amount": Decimal("12.50"), "created_at": at}
        Sentinelle(engine.url, "sk_1").score(subject)
        [seen] = engine.seen
        assert seen.body["transaction"] == {
            "transaction_id": "t", "amount": 12.5, "created_at": "2026-01-02T00:00:00+00:00",
        }  # fmt: skip
        assert seen.headers["Authorization"] == "Api-Key sk_1"

    @pytest.mark.parametrize(
        "value", [datetime(2026, 1, 2), float("nan"), {1, 2}], ids=["naive", "nan", "set"]
    )
    def test_what_can_not_be_sent(self, engine: Between, value: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            Sentinelle(engine.url).score({"created_at": value})
        assert engine.seen == []

    def test_address_and_key_of_the_environment(self, engine: Between, monkeypatch: Any) -> None:
        monkeypatch.setenv("ML_ENGINE_URL", engine.url + "/engine/")
        monkeypatch.setenv("ML_ENGINE_KEY", "sk_env")
        engine.then = [OK]
        Sentinelle().score(TRANSACTION)
        assert engine.seen[0].path == "/engine/score"
        assert engine.seen[0].headers["Authorization"] == "Api-Key sk_env"

    @pytest.mark.parametrize(
        "url",
        ["", "engine.example.com", "ftp://x", "https://", "http://x:y", "http://x:99999",
         "http://x/?a=1", "http://me:secret@x"],
        ids=range(8),
    )  # fmt: skip
    def test_addresses_that_are_none(self, url: str) -> None:
        with pytest.raises(ValueError, match="ML_ENGINE_URL") as raised:
            Sentinelle(url)
        assert "secret" not in str(raised.value)

    @pytest.mark.parametrize("key", ["sk_1\n", "sk_é"], ids=range(2))
    def test_keys_that_no_header_takes(self, engine: Between, key: str) -> None:
        with pytest.raises(ValueError, match="ML_ENGINE_KEY has") as raised:
            Sentinelle(engine.url, key)
        assert "sk_" not in str(raised.value)
        with pytest.raises(ValueError, match="idempotency_key is"):
            Sentinelle(engine.url).predict("sponsor", {}, idempotency_key=key)
        assert engine.seen == []

    def test_one_connection_serves_call_after_call(self, engine: Between) -> None:
        engine.then = [OK] * 5
        client = Sentinelle(engine.url)
        for _ in range(5):
            client.score(TRANSACTION)
        assert engine.connections == 1

    def test_a_connection_that_ends_with_its_answer(self, engine: Between) -> None:
        engine.then = [Problem(200, {"Connection": "close"}, ANSWER), OK]
        client = Sentinelle(engine.url, attempts=1)
        assert [client.score(TRANSACTION).decision for _ in range(2)] == ["APPROVE"] * 2
        assert engine.connections == 2

    def test_threads_share_a_client(self, engine: Between) -> None:
        engine.then = [OK] * 80
        client = Sentinelle(engine.url, connections=4)
        decisions: list[str] = []

        def work() -> None:
            for _ in range(5):
                decisions.append(client.score(TRANSACTION).decision)

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert decisions == ["APPROVE"] * 80

    def test_more_than_a_request_takes_go_in_several(self, engine: Between) -> None:
        engine.then = [Problem(200, {}, {"recorded": n, "repeated": 0}) for n in (1000, 5)]
        reports = [{"transaction_id": str(n)} for n in range(1005)]
        assert Sentinelle(engine.url).outcomes(reports).recorded == 1005
        assert [len(seen.body) for seen in engine.seen] == [1000, 5]


class TestGoogleIdToken:
    def test_it_goes_beside_the_key_and_is_kept(self, engine: Between, monkeypatch: Any) -> None:
        from tests.google.server import GoogleServer

        google = GoogleServer()
        monkeypatch.setenv("GCE_METADATA_HOST", google.host)
        engine.then = [OK, OK]
        client = Sentinelle(engine.url, "sk_1", id_token=GoogleIdToken("https://engine.run.app"))
        client.score(TRANSACTION)
        client.score(TRANSACTION)
        google.close()
        sent = {seen.headers["X-Serverless-Authorization"] for seen in engine.seen}
        [(token, (_, audience))] = google.identities.items()
        assert sent == {f"Bearer {token}"}
        assert audience == "https://engine.run.app"
        assert engine.seen[0].headers["Authorization"] == "Api-Key sk_1"

    def test_without_a_metadata_server(self, engine: Between, monkeypatch: Any) -> None:
        monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
        client = Sentinelle(engine.url, id_token=GoogleIdToken("https://engine.run.app"))
        with pytest.raises(EngineUnavailable, match="gave no ID token"):
            client.score(TRANSACTION)
        assert client.score(TRANSACTION, fallback="REVIEW").is_fallback
        assert engine.seen == []

    def test_one_that_hangs_keeps_the_deadline_of_every_thread(
        self, engine: Between, monkeypatch: Any
    ) -> None:
        silent = socket.create_server(("127.0.0.1", 0))
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{silent.getsockname()[1]}")
        token = GoogleIdToken("https://engine.run.app")
        client = Sentinelle(engine.url, id_token=token, deadline=0.4)
        started = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(client.score, TRANSACTION, fallback="REVIEW") for _ in range(4)]
            assert all(each.result().is_fallback for each in asked)
        assert time.monotonic() - started < 1.5
        silent.close()

    def test_the_old_one_is_used_while_it_is_valid(self, engine: Between, monkeypatch: Any) -> None:
        from tests.google.server import GoogleServer

        google = GoogleServer()
        monkeypatch.setenv("GCE_METADATA_HOST", google.host)
        token = GoogleIdToken("https://engine.run.app")
        first = token()
        google.close()
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3_500)
        assert token() == first
        monkeypatch.setattr(time, "time", lambda: now + 3_700)
        with pytest.raises(EngineUnavailable, match="gave no ID token"):
            token()

    def test_of_a_function_that_fails(self, engine: Between) -> None:
        def fail() -> str:
            raise RuntimeError("no account")

        client = Sentinelle(engine.url, id_token=fail)
        with pytest.raises(EngineUnavailable, match=r"no ID token.*no account"):
            client.score(TRANSACTION)
        assert client.score(TRANSACTION, fallback="REVIEW").is_fallback
        assert engine.seen == []


class TestTls:
    @pytest.fixture
    def engine(self, tmp_path: Path, monkeypatch: Any) -> Iterator[Between]:
        """With a certificate that this process, and no other, trusts."""
        certificate = self_signed(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        between = Between(tls=context)
        yield between
        between.close()

    def test_answers_and_deadlines(self, engine: Between) -> None:
        engine.then = [OK, OK, "drip"]
        client = Sentinelle(engine.url, attempts=1)
        assert [client.score(TRANSACTION).decision for _ in range(2)] == ["APPROVE"] * 2
        assert engine.connections == 1
        started = time.monotonic()
        with pytest.raises(EngineUnavailable):
            client.score(TRANSACTION, deadline=0.3)
        assert time.monotonic() - started < 2

    def test_a_certificate_of_nobody_is_refused(self, engine: Between, monkeypatch: Any) -> None:
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(EngineUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            Sentinelle(engine.url, attempts=1).score(TRANSACTION)
        assert engine.seen == []


def self_signed(folder: Path) -> Path:
    """A certificate of localhost and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "localhost.pem"
    path.write_bytes(certificate.public_bytes(pem) + secret)
    return path


def test_the_examples_are_python() -> None:
    blocks = re.findall(r"```python\n(.*?)```", SOURCE.with_name("README.md").read_text(), re.S)
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "README.md", "exec")


def test_the_file_is_for_python_3_9_and_needs_urllib3_alone() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 9))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
        assert not isinstance(node, ast.Match)
    packages = {name.partition(".")[0] for name in modules}
    assert packages - sys.stdlib_module_names == {"urllib3"}
