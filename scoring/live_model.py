"""What this process serves: the champion's bundle with the rules that are live.

One thread a process asks the registry every `LIVE_REFRESH_SECONDS` and swaps the whole of
`Serving` at once (following.py).
"""

import time
from typing import NamedTuple

from django.conf import settings

from deployments import artifacts
from deployments.models import ModelVersion
from deployments.models import RuleSet as RuleSetRow
from deployments.selectors import LivePointer, live_pointer, model_by_name, version_by_semver
from engine.errors import InvalidRuleSet, NoModel, NotRegistered
from engine.features.live import EMPTY_HISTORY
from engine.fraud_bundle import Bundle
from engine.rules import RuleSet
from engine.scorer import Scorer
from engine.transaction import decode_score_request
from scoring.following import Follower, Slot

LATEST = "latest"
_NOTHING_LIVE = "No version is live yet: promote one."
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


class LiveModel(Follower):
    """The `Serving` of one process. Reading it is safe from any thread."""

    thread_name = "live-model"

    def __init__(self) -> None:
        super().__init__()
        self._slot: Slot[Serving] = Slot(_NOTHING_LIVE)
        self._answered_at = 0.0
        self._is_loading = False

    def serving(self) -> Serving:
        """What serves now; raises NoModel."""
        self._refresh_without_thread()
        serving = self._slot.loaded
        if serving is None:
            raise NoModel(self._slot.reason)
        return serving

    def health(self) -> Health:
        """Whether this process can decide, from what the last question to the registry gave."""
        self._refresh_without_thread()
        serving = self._slot.loaded
        version = serving.scorer.model_version if serving else None
        if not self._is_loading and time.monotonic() - self._answered_at > STALE_SECONDS:
            return Health(version, "The database is out of reach.")
        return Health(version, "" if serving else self._slot.reason)

    def refresh(self) -> None:
        try:
            pointer, reason = _pointer(), _NOTHING_LIVE
        except NotRegistered as error:
            pointer, reason = None, error.detail
        self._answered_at = time.monotonic()
        if pointer is None or pointer.version is None:
            self._slot.reason = reason
        else:
            self._load(pointer.version, pointer.rules)

    def _load(self, version: ModelVersion, rule_set: RuleSetRow) -> None:
        self._is_loading = True
        try:
            self._slot.fill(
                (version.pk, rule_set.pk),
                f"v{version.version}",
                f"{version} with rule set {rule_set}",
                lambda: _load(version, rule_set, self._slot.loaded),
            )
        finally:
            self._answered_at = time.monotonic()
            self._is_loading = False


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
