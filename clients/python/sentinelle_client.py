"""A client of Sentinelle's API for backends in Python: copy this file into yours.

It needs Python 3.9 and urllib3, nothing else.

    engine = Sentinelle()                       # ML_ENGINE_URL and ML_ENGINE_KEY
    decision = engine.score({"transaction_id": "tx_001", "amount": 150.0, …})
    if decision.decision == "BLOCK": …

One client serves all threads of a process. Every call has a deadline, and within it tries again
what a second try can't do twice: the engine knows a transaction by its id, and a prediction by its
Idempotency-Key. What the engine refuses raises EngineRefused at once; when there is no answer in
time, EngineUnavailable, or the decision that the caller named for that case, marked as such.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import partial
from http.client import HTTPResponse
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urlencode, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

__all__ = [
    "Decision",
    "EngineError",
    "EngineRefused",
    "EngineUnavailable",
    "GoogleIdToken",
    "Health",
    "Prediction",
    "Receipt",
    "Sentinelle",
]

logger = logging.getLogger("sentinelle_client")

DECISIONS = ("APPROVE", "REVIEW", "BLOCK")
MOST_ITEMS = 1_000
"""Transactions, outcomes or labels that the engine takes in one request; more go in several."""
TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
"""What another moment may mend. Everything else that is no success is an answer: no."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
MOST_KEY = 64
"""Characters of an idempotency key."""

T = TypeVar("T")


class EngineError(Exception):
    """No answer, or no for an answer. (What no request can be made of is a ValueError or a
    TypeError.)"""


class EngineUnavailable(EngineError):
    """No answer in time. The engine may have decided all the same: ask again with the same id (or
    idempotency key) and the stored answer comes back.

    `retry_after` is how many seconds the engine asked to wait, when it did.
    """

    def __init__(self, reason: str, attempts: int = 1, retry_after: float | None = None) -> None:
        super().__init__(f"{reason} ({attempts} attempt{'s' if attempts > 1 else ''})")
        self.reason = reason
        self.attempts = attempts
        self.retry_after = retry_after


class EngineRefused(EngineError):
    """The engine answered no: asking the same again gives the same.

    `code` is stable, such as INVALID_REQUEST; `errors` has the `field` and the `message` of each
    fault.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.code = str(problem.get("code", ""))
        self.detail = str(problem.get("detail", "")) or f"The engine answered {status}."
        errors = problem.get("errors")  # a proxy may have put anything there
        listed = errors if isinstance(errors, list) else []
        self.errors = [each for each in listed if isinstance(each, dict)]
        super().__init__(f"{status} {self.code}: {self.detail}")


@dataclass(frozen=True)
class Decision:
    """What was decided of a transaction. With `is_fallback` it is the caller's own answer for the
    case that the engine has none: it has no scores, and the engine knows nothing of it."""

    transaction_id: str
    decision: str
    risk_score: float | None = None
    reasons: tuple[str, ...] = ()
    model_version: str | None = None
    rule_score: float | None = None
    supervised_score: float | None = None
    unsupervised_score: float | None = None
    is_replay: bool = False
    is_fallback: bool = False
    fallback_reason: str = ""


@dataclass(frozen=True)
class Prediction:
    """What a classifier answered, by the names that its definition gives the parts."""

    answer: Mapping[str, Any]
    model_version: str
    idempotency_key: str
    is_replay: bool = False


@dataclass(frozen=True)
class Receipt:
    """How many reports were new, how many had been received before, and of labels the ids of the
    transactions that the engine never saw."""

    recorded: int
    repeated: int
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Health:
    """Whether the server that answered can decide; if not, `reason` says why."""

    is_healthy: bool
    model_version: str | None
    reason: str = ""


@dataclass
class _Answer:
    """A whole answer of the engine."""

    status: int
    headers: Mapping[str, str]
    body: Any = field(default=None)

    @property
    def is_replay(self) -> bool:
        return self.headers.get("Idempotent-Replayed") == "true"


class _Transient(Exception):
    """An attempt that failed in a way that the next one may not."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class Sentinelle:
    """A client of one engine.

    Args:
        url: where it is; by default `ML_ENGINE_URL`.
        key: an API key; by default `ML_ENGINE_KEY`. None is sent where there is none.
        id_token: gives a Google ID token for a private Cloud Run service, such as `GoogleIdToken`;
            it goes with each request in `X-Serverless-Authorization`, beside the key.
        connect_timeout, read_timeout: seconds for a connection, and for a whole answer, of each
            attempt.
        deadline: seconds for a call with all its attempts and pauses; each call may have its own.
            (Looking up the host's name is the system's, which no deadline interrupts.)
        attempts: at most so many for a call; 1 never tries again.
        connections: kept open; more threads than that open others for their call.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        id_token: Callable[[], str] | None = None,
        connect_timeout: float = 1.0,
        read_timeout: float = 5.0,
        deadline: float = 10.0,
        attempts: int = 4,
        connections: int = 16,
    ) -> None:
        url = url or os.environ.get("ML_ENGINE_URL", "")
        parts = _address(url)
        if attempts < 1 or min(connect_timeout, read_timeout, deadline) <= 0:
            raise ValueError("attempts and all times must be above 0")
        self._host = f"{parts.scheme}://{parts.netloc}"
        self._path = parts.path.rstrip("/")
        self._key = key or os.environ.get("ML_ENGINE_KEY", "")
        if not _is_printable(self._key):
            raise ValueError("ML_ENGINE_KEY has what no key has, such as a line break at its end")
        self._id_token = id_token
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._deadline = deadline
        self._attempts = attempts
        self._connections = connections
        self._lock = threading.Lock()
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._pid = 0

    def score(
        self,
        transaction: Mapping[str, Any],
        context: Mapping[str, Any] | None = None,
        *,
        fallback: str | None = None,
        deadline: float | None = None,
    ) -> Decision:
        """Decide a transaction, as `POST /score` takes it.

        Args:
            fallback: APPROVE, REVIEW or BLOCK: what to return, marked `is_fallback`, when there is
                no answer in time. Without it that raises.

        Raises EngineRefused, whatever the fallback; EngineUnavailable.
        """
        _check_fallback(fallback)
        body = _encode(_request(transaction, context))

        def read(answer: _Answer) -> Decision:
            return _decision(answer.body, transaction, is_replay=answer.is_replay)

        try:
            return self._call("/score", body, read, deadline=deadline)
        except EngineUnavailable as error:
            if fallback is None:
                raise
            return _fallback(transaction, fallback, error)

    def score_many(
        self,
        requests: Sequence[Mapping[str, Any]],
        *,
        fallback: str | None = None,
        deadline: float | None = None,
    ) -> list[Decision | EngineRefused]:
        """Decide several, in their order: each is `{"transaction": …, "context": …}`. More than
        1,000 go in several requests, each with the deadline.

        A transaction that is refused has an EngineRefused in its place, and the others are decided.
        Raises as `score` does for what concerns all of them.
        """
        _check_fallback(fallback)
        decided: list[Decision | EngineRefused] = []
        for part in _parts(requests):
            body = _encode({"transactions": part})
            read = partial(_results, part)
            try:
                decided += self._call("/score/batch", body, read, deadline=deadline)
            except EngineUnavailable as error:
                if fallback is None:
                    raise
                decided += [_fallback(each["transaction"], fallback, error) for each in part]
        return decided

    def outcome(
        self,
        transaction_id: str,
        status: str,
        occurred_at: datetime | str,
        *,
        deadline: float | None = None,
    ) -> Receipt:
        """Tell how a transaction ended: SUCCESS, FAILED or CANCELED."""
        report = {"transaction_id": transaction_id, "status": status, "occurred_at": occurred_at}
        return self.outcomes([report], deadline=deadline)

    def outcomes(
        self, reports: Sequence[Mapping[str, Any]], *, deadline: float | None = None
    ) -> Receipt:
        """Tell how transactions ended, as `POST /outcomes` takes it. Told twice changes nothing."""
        return self._report("/outcomes", reports, deadline)

    def labels(
        self, labels: Sequence[Mapping[str, Any]], *, deadline: float | None = None
    ) -> Receipt:
        """Tell which transactions were fraud, as `POST /labels` takes it; likewise."""
        return self._report("/labels", labels, deadline)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        deadline: float | None = None,
    ) -> Prediction:
        """Ask a classifier. The same `idempotency_key` (made up where none is given) with the same
        inputs is answered, and recorded, once: 1 to 64 printable ASCII characters."""
        key = idempotency_key if idempotency_key is not None else str(uuid.uuid4())
        if not 1 <= len(key) <= MOST_KEY or not _is_printable(key):
            raise ValueError(
                f"idempotency_key is {key!r}; expected 1 to {MOST_KEY} printable ASCII characters"
            )

        def read(answer: _Answer) -> Prediction:
            version = answer.body["model_version"]
            return Prediction(answer.body, version, key, is_replay=answer.is_replay)

        path = f"/models/{quote(model, safe='')}/predict"
        headers = {"Idempotency-Key": key}
        return self._call(path, _encode(inputs), read, headers=headers, deadline=deadline)

    def health(self, *, deadline: float | None = None) -> Health:
        """Ask once whether a decision can be made; raises EngineUnavailable when nobody answers."""
        left = _Clock(self._deadline if deadline is None else deadline)
        try:
            answer = self._ask("GET", "/health", None, {}, left)
        except _Transient as error:
            raise EngineUnavailable(error.reason) from error
        body = answer.body if isinstance(answer.body, dict) else {}
        if "status" not in body:
            raise EngineUnavailable(f"{self._host} answered {answer.status} to /health")
        reason = body.get("reason", "")
        return Health(body["status"] == "healthy", body.get("model_version"), reason)

    def close(self) -> None:
        """Close the connections that are kept; the client goes on with new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def __enter__(self) -> Sentinelle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _report(
        self, path: str, reports: Sequence[Mapping[str, Any]], deadline: float | None
    ) -> Receipt:
        recorded = repeated = 0
        unknown: list[str] = []
        for part in _parts(reports):
            receipt = self._call(path, _encode(part), _receipt, deadline=deadline)
            recorded += receipt.recorded
            repeated += receipt.repeated
            unknown += receipt.unknown
        return Receipt(recorded, repeated, tuple(unknown))

    def _call(
        self,
        path: str,
        body: bytes,
        read: Callable[[_Answer], T],
        *,
        headers: Mapping[str, str] | None = None,
        deadline: float | None = None,
    ) -> T:
        """What `read` makes of the answer of a success. All that is posted here may be sent twice.

        Raises EngineRefused; EngineUnavailable, also when a success is not what was asked for.
        """
        left = _Clock(self._deadline if deadline is None else deadline)
        for attempt in range(1, self._attempts + 1):
            try:
                answer = self._ask("POST", path, body, headers or {}, left)
                if answer.status in TRY_AGAIN:
                    raise _Transient(_told(answer), _retry_after(answer))
                break
            except _Transient as error:
                pause = _pause(attempt, error.retry_after)
                # An attempt that has no time to be answered is not worth its load.
                if attempt == self._attempts or pause >= left():
                    raise EngineUnavailable(error.reason, attempt, error.retry_after) from error
                logger.warning("%s; trying again in %.2f s", error.reason, pause)
                time.sleep(pause)
        if answer.status != 200:
            raise EngineRefused(answer.status, _problem(answer))
        if not isinstance(answer.body, dict):
            raise EngineUnavailable(f"{self._host} answered something that is no JSON object")
        try:
            return read(answer)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            reason = f"{self._host} answered something that is no answer to {path}: {error!r}"
            raise EngineUnavailable(reason) from error

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        left: Callable[[], float],
    ) -> _Answer:
        """One attempt; raises _Transient when there is no whole answer in time."""
        sent = {"Accept": "application/json", "User-Agent": "sentinelle-python/1", **headers}
        if body is not None:
            sent["Content-Type"] = "application/json"
        if self._key:
            sent["Authorization"] = f"Api-Key {self._key}"
        if self._id_token is not None:
            sent["X-Serverless-Authorization"] = f"Bearer {self._token(self._id_token, left())}"
        remaining = left()
        if remaining <= 0:
            raise _Transient("The deadline had passed before the engine was asked")
        timeout = urllib3.Timeout(
            connect=min(self._connect_timeout, remaining), read=min(self._read_timeout, remaining)
        )
        try:
            response = self._open_pool().urlopen(
                method, self._path + path, body=body, headers=sent, timeout=timeout,
                retries=False, redirect=False, preload_content=True,
            )  # fmt: skip
        except HTTPError as error:
            raise _Transient(self._reason(error)) from error
        return _Answer(response.status, response.headers, _decode(response.data))

    @staticmethod
    def _token(give: Callable[[], str], seconds: float) -> str:
        """The caller's ID token; raises _Transient, whatever went wrong in a function of theirs."""
        try:
            return give.within(seconds) if isinstance(give, GoogleIdToken) else give()
        except EngineUnavailable as error:
            raise _Transient(error.reason) from error
        except Exception as error:
            raise _Transient(f"There is no ID token: {error!r}") from error

    def _reason(self, error: HTTPError) -> str:
        if isinstance(error, (ConnectTimeoutError, NewConnectionError)):
            return f"{self._host} can't be reached"
        if isinstance(error, ReadTimeoutError):
            return f"{self._host} did not answer in time"
        return f"The connection to {self._host} failed: {error}"

    def _open_pool(self) -> urllib3.HTTPConnectionPool:
        """The pool of this process: a connection can't be shared with one that was forked."""
        with self._lock:
            if self._pool is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._pool = urllib3.connection_from_url(self._host, maxsize=self._connections)
                is_tls = isinstance(self._pool, urllib3.HTTPSConnectionPool)
                self._pool.ConnectionCls = _TlsConnection if is_tls else _PlainConnection
            return self._pool


class GoogleIdToken:
    """ID tokens of the service account that a machine, job or service on Google Cloud runs as.

    Args:
        audience: the address of the Cloud Run service, which is what Cloud Run expects.
    """

    def __init__(self, audience: str, *, timeout: float = 3.0) -> None:
        self._audience = audience
        self._timeout = timeout
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = 0.0
        self._expires_at = 0.0

    def __call__(self) -> str:
        """A token that is valid; raises EngineUnavailable without one."""
        return self.within(self._timeout)

    def within(self, seconds: float) -> str:
        """The same, in so many seconds at most; those who ask meanwhile wait for one answer."""
        left = _Clock(min(seconds, self._timeout))
        if not self._lock.acquire(timeout=max(0.0, left())):
            raise EngineUnavailable("The metadata server gave no ID token in time")
        try:
            if time.time() >= self._renew_at:
                self._renew(max(0.001, left()))
            return self._token
        finally:
            self._lock.release()

    def _renew(self, seconds: float) -> None:
        """Fetch the next token; while the old one is valid, it may also be fetched later."""
        try:
            token = self._fetch(seconds)
            self._token, self._expires_at = token, _expires_at(token)
        except EngineUnavailable as error:
            if time.time() >= self._expires_at:
                raise
            logger.warning("%s; the old one is used on", error.reason)
            self._renew_at = min(time.time() + 30, self._expires_at)
        else:
            self._renew_at = self._expires_at - 300

    def _fetch(self, seconds: float) -> str:
        host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
        query = urlencode({"audience": self._audience, "format": "full"})
        path = "/computeMetadata/v1/instance/service-accounts/default/identity"
        try:
            timeout = urllib3.Timeout(total=seconds)
            with urllib3.PoolManager(timeout=timeout, retries=False) as pool:
                headers = {"Metadata-Flavor": "Google"}
                answer = pool.request("GET", f"http://{host}{path}?{query}", headers=headers)
        except HTTPError as error:
            raise EngineUnavailable(f"{host} gave no ID token: {error}") from error
        if answer.status != 200:
            raise EngineUnavailable(f"{host} gave no ID token: it answered {answer.status}")
        return answer.data.decode().strip()


class _Clock:
    """Seconds that are left of a deadline."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def __call__(self) -> float:
        return self._ends - time.monotonic()


class _TimedReader(io.RawIOBase):
    """Reads from a socket until a moment, however often something arrives: a time-out of a socket
    is for each packet, and a server that sends one now and then would never meet it."""

    def __init__(self, sock: Any, file: io.BufferedReader, left: Callable[[], float]) -> None:
        super().__init__()
        self._sock = sock
        self._file = file  # while this is open, closing the socket leaves it readable
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # Below 0 it would be an error, at 0 it would not wait for what is there already.
        self._sock.settimeout(max(self._left(), 0.001))
        received: int = self._sock.recv_into(buffer)
        return received

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _TimedResponse(HTTPResponse):
    """The time-out that the socket has when the answer is waited for is for all of it."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        seconds = sock.gettimeout()
        if seconds is not None:
            self.fp = io.BufferedReader(_TimedReader(sock, self.fp, _Clock(seconds)))


class _PlainConnection(HTTPConnection):
    response_class = _TimedResponse


class _TlsConnection(HTTPSConnection):
    response_class = _TimedResponse


def _address(url: str) -> SplitResult:
    """The parts of the engine's address; raises ValueError for what is none."""
    parts = urlsplit(url)
    try:
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none
        is_one = False
    if not is_one or parts.query or parts.fragment:
        raise ValueError(
            f"ML_ENGINE_URL is {url!r}; expected an address such as https://engine.example.com"
        )
    if "@" in parts.netloc:  # not shown: there may be a password in it
        raise ValueError(
            "ML_ENGINE_URL has a user in it; the engine knows callers by ML_ENGINE_KEY"
        )
    return parts


def _is_printable(text: str) -> bool:
    """Whether a header can have it."""
    return text.isascii() and text.isprintable()


def _request(
    transaction: Mapping[str, Any], context: Mapping[str, Any] | None
) -> dict[str, Mapping[str, Any]]:
    return {"transaction": transaction, "context": context or {}}


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[at : at + MOST_ITEMS] for at in range(0, len(items), MOST_ITEMS))


def _encode(value: Any) -> bytes:
    """As JSON; raises TypeError or ValueError for what the engine could not read."""
    return json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no time zone")
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} can't be sent as JSON")


def _decode(body: bytes) -> Any:
    """A body as JSON; None when it is not, as of a page of a proxy."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _decision(
    answer: Mapping[str, Any], transaction: Mapping[str, Any], *, is_replay: bool
) -> Decision:
    """Raises LookupError or ValueError for what is no decision of this transaction."""
    if answer["transaction_id"] != str(transaction.get("transaction_id")):
        raise ValueError("it is about another transaction")
    if answer["decision"] not in DECISIONS:
        raise ValueError(f"{answer['decision']!r} is no decision")
    return Decision(
        transaction_id=answer["transaction_id"],
        decision=answer["decision"],
        risk_score=answer["risk_score"],
        reasons=tuple(answer["reasons"]),
        model_version=answer["model_version"],
        rule_score=answer["rule_score"],
        supervised_score=answer["supervised_score"],
        unsupervised_score=answer["unsupervised_score"],
        is_replay=is_replay,
    )


def _results(part: Sequence[Mapping[str, Any]], answer: _Answer) -> list[Decision | EngineRefused]:
    """Those of a batch, one for each that was sent; raises as `_decision`."""
    results = answer.body["results"]
    if len(results) != len(part):
        raise ValueError(f"{len(results)} results of {len(part)} transactions")
    # (Python 3.9 has no strict.)
    return [_result(each, sent["transaction"]) for each, sent in zip(results, part)]  # noqa: B905


def _result(result: Mapping[str, Any], transaction: Mapping[str, Any]) -> Decision | EngineRefused:
    if result["status"] != 200:
        return EngineRefused(result["status"], result["error"])
    return _decision(result["answer"], transaction, is_replay=result.get("replayed", False))


def _receipt(answer: _Answer) -> Receipt:
    body = answer.body
    return Receipt(body["recorded"], body["repeated"], tuple(body.get("unknown", ())))


def _check_fallback(fallback: str | None) -> None:
    if fallback is not None and fallback not in DECISIONS:
        raise ValueError(f"fallback is {fallback!r}; expected one of {', '.join(DECISIONS)}")


def _fallback(transaction: Mapping[str, Any], decision: str, error: EngineUnavailable) -> Decision:
    logger.error("%s; answering %s, as the caller said", error, decision)
    transaction_id = str(transaction.get("transaction_id", ""))
    return Decision(transaction_id, decision, is_fallback=True, fallback_reason=error.reason)


def _problem(answer: _Answer) -> Mapping[str, Any]:
    if isinstance(answer.body, dict):
        return answer.body
    if 300 <= answer.status < 400:
        to = answer.headers.get("Location", "elsewhere")
        return {"detail": f"The engine redirects to {to}; is ML_ENGINE_URL the right address?"}
    return {}


def _told(answer: _Answer) -> str:
    """Why an answer is none, in the engine's words."""
    problem = _problem(answer)
    told = " ".join(str(problem[name]) for name in ("code", "detail") if problem.get(name))
    return f"The engine answered {answer.status}" + (f": {told}" if told else "")


def _retry_after(answer: _Answer) -> float | None:
    """The seconds that the engine asks to wait."""
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "")))
    except ValueError:
        return None


def _pause(attempt: int, retry_after: float | None) -> float:
    """Seconds before the next attempt: random, so that callers who failed together do not come
    back together, and never less than the engine asked for."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
    return (retry_after or 0.0) + random.uniform(0, longest)  # noqa: S311 (no secret)


def _expires_at(token: str) -> float:
    """The `exp` of a JSON web token, unverified; raises EngineUnavailable for what is none."""
    try:
        payload = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(payload + "==="))["exp"])
    except (ValueError, LookupError, TypeError):
        raise EngineUnavailable("What the metadata server gave is no ID token") from None
