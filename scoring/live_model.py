"""What this process serves: the champion's bundle with the rules that are live.

One thread a process asks the registry every `LIVE_REFRESH_SECONDS` and swaps the whole of
`Serving` at once, so a request never meets half a change. A bundle or a rule set that does not
load is refused with one line in the log, tried again later, and what served before goes on.
"""

import logging
import threading
import time
from typing import NamedTuple

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from deployments import artifacts
from deployments.models import ModelVersion
from deployments.models import RuleSet as RuleSetRow
from deployments.selectors import LivePointer, live_pointer, model_by_name, version_by_semver
from engine.errors import InvalidRuleSet, NoModel, NotRegistered, SentinelleError
from engine.features.live import EMPTY_HISTORY
from engine.fraud_bundle import Bundle
from engine.rules import RuleSet
from engine.scorer import Scorer
from engine.transaction import decode_score_request

logger = logging.getLogger(__name__)

LATEST = "latest"
_NOTHING_LIVE = "No version is live yet: promote one."
RETRY_SECONDS = 10.0
"""How long after a refusal the same version is tried again: its files may have been restored."""

STALE_SECONDS = 3.0
"""How long the registry may be silent before this process calls the database out of reach."""

_WARM_UP = decode_score_request(
    b'{"transaction": {"transaction_id": "warm-up", "amount": 1, "currency": "EUR",'
    b' "source_wallet_id": "a", "destination_wallet_id": "b", "transaction_type": "TRANSFER",'
    b' "created_at": "2026-01-01T00:00:00Z", "country": "FR"}}'
)


class Serving(NamedTuple):
    """All that a decision needs, and the rows that it will name."""

    scorer: Scorer
    bundle: Bundle
    version_id: int
    rule_set_id: int


class Health(NamedTuple):
    """What serves (None: nothing) and why no decision can be made ("" when it can)."""

    model_version: str | None
    reason: str


class LiveModel:
    """The `Serving` of one process. Reading it is safe from any thread."""

    def __init__(self) -> None:
        self._serving: Serving | None = None
        self._reason = _NOTHING_LIVE
        self._refused: tuple[int, int] | None = None
        self._retry_at = 0.0
        self._answered_at = 0.0
        self._is_loading = False
        self._asked_at = 0.0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def serving(self) -> Serving:
        """What serves now; raises NoModel."""
        self._refresh_without_thread()
        if self._serving is None:
            raise NoModel(self._reason)
        return self._serving

    def health(self) -> Health:
        """Whether this process can decide, from what the last question to the registry gave."""
        self._refresh_without_thread()
        serving = self._serving
        version = serving.scorer.model_version if serving else None
        if not self._is_loading and time.monotonic() - self._answered_at > STALE_SECONDS:
            return Health(version, "The database is out of reach.")
        return Health(version, "" if serving else self._reason)

    def start(self) -> None:
        """Load what is live, then follow it from a thread of this process until `stop`."""
        self._stop.clear()
        self._refresh_guarded()
        self._thread = threading.Thread(target=self._follow, name="live-model", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def forget(self) -> None:
        """Serve nothing until the next refresh; for tests, whose database starts anew."""
        self.__init__()  # type: ignore[misc]

    def refresh(self) -> None:
        """Ask the registry once and load what it names, if that is not what serves.

        Raises DatabaseError or InterfaceError when the registry can't be asked.
        """
        try:
            pointer, reason = _pointer(), _NOTHING_LIVE
        except NotRegistered as error:
            pointer, reason = None, error.detail
        self._answered_at = time.monotonic()
        if pointer is None or pointer.version is None:
            self._reason = reason
            return
        wanted = (pointer.version.pk, pointer.rules.pk)
        serving = self._serving
        if serving and wanted == (serving.version_id, serving.rule_set_id):
            self._refused = None
        elif wanted != self._refused or time.monotonic() >= self._retry_at:
            self._load(pointer.version, pointer.rules)

    def _load(self, version: ModelVersion, rule_set: RuleSetRow) -> None:
        wanted = (version.pk, rule_set.pk)
        self._is_loading = True
        try:
            self._serving = _load(version, rule_set, self._serving)
        except Exception as error:  # whatever is wrong with it, what serves goes on
            kept = self._serving.scorer.model_version if self._serving else "nothing"
            if wanted != self._refused:
                ours = not isinstance(error, SentinelleError)
                logger.error(
                    "Refused %s with rule set %s; %s keeps serving: %s",
                    version, rule_set, kept, error, exc_info=ours,
                )  # fmt: skip
            self._refused, self._retry_at = wanted, time.monotonic() + RETRY_SECONDS
            self._reason = f"v{version.version} is live but did not load; the server's log has why."
        else:
            self._refused = None
            logger.info("Serving %s with rule set %s", version, rule_set)
        finally:
            self._answered_at = time.monotonic()
            self._is_loading = False

    def _follow(self) -> None:
        while not self._stop.wait(settings.LIVE_REFRESH_SECONDS):
            self._refresh_guarded()
        connection.close()

    def _refresh_guarded(self) -> None:
        """`refresh` for a thread that has to live on whatever happens."""
        try:
            self.refresh()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("The registry did not answer: %s", error)
            connection.close()
        except Exception:
            logger.exception("Could not look up what is live")

    def _refresh_without_thread(self) -> None:
        """Where nothing runs the thread (runserver, tests), a request asks when it is time."""
        if self._thread is not None:
            return
        with self._lock:
            if time.monotonic() - self._asked_at >= settings.LIVE_REFRESH_SECONDS:
                self._asked_at = time.monotonic()
                self._refresh_guarded()


live_model = LiveModel()


def _pointer() -> LivePointer:
    """What this server should serve; raises NotRegistered, also for a version it is pinned to."""
    pointer = live_pointer(settings.MODEL_NAME)
    if pointer.rule_set is None:
        raise NotRegistered(
            f"MODEL_NAME is “{settings.MODEL_NAME}”, a classifier: it does not score transactions."
        )
    if settings.MODEL_VERSION == LATEST:
        return pointer
    version = version_by_semver(model_by_name(settings.MODEL_NAME), settings.MODEL_VERSION)
    if not version.deployable:
        raise NotRegistered(f"v{version.version} was trained on a sample: it can't be served.")
    return pointer._replace(version=version)


def _load(version: ModelVersion, rule_set: RuleSetRow, serving: Serving | None) -> Serving:
    """Load and verify; the first decision of a scorer is slow, so it is made here."""
    if serving and serving.version_id == version.pk:
        bundle = serving.bundle
    else:
        bundle = artifacts.load_fraud(version.location, version.manifest_sha256)
    rules = RuleSet.from_toml(rule_set.source)
    if rules.sha256 != rule_set.sha256:
        raise InvalidRuleSet(f"The source of “{rule_set.name}” is not what was registered.")
    scorer = Scorer(bundle, rules)
    scorer.score(_WARM_UP, EMPTY_HISTORY)
    return Serving(scorer, bundle, version.pk, rule_set.pk)
