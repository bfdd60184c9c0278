"""The champion of a classifier, for a server without a database: what the store says serves."""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from engine.champions import Champion, read_champion
from engine.classifier.bundle import ClassifierBundle, load_served
from engine.errors import InvalidBundle, NoModel, SentinelleError, StoreUnavailable
from engine.store import Store

CHECK_SECONDS: Final = 30.0
"""A newer champion is looked for this often."""
RETRY_SECONDS: Final = 5.0
"""While nothing serves, the store is asked this often."""
REFUSED_SECONDS: Final = 300.0
"""A bundle that is not what was registered is read again this often."""
PATIENCE_SECONDS: Final = 2.0
"""A request waits this long for a newer champion; then it has the answer of the old one."""
FIRST_SECONDS: Final = 120.0
"""A request waits this long for the first one."""

logger = logging.getLogger(__name__)


class LiveChampion:
    """The loaded champion, the same for all threads; looks for a newer one when it is asked for.

    One thread looks and downloads, and whoever asks meanwhile gets what serves. That is kept, and a
    line logged, when the store does not answer, when nothing is promoted any more, and when the
    newer bundle is damaged.
    """

    def __init__(self, store: Store, model: str, *, check_seconds: float = CHECK_SECONDS) -> None:
        self.model = model
        self._store = store
        self._check_seconds = check_seconds
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="champion")
        self._looking: Future[ClassifierBundle] | None = None
        self._bundle: ClassifierBundle | None = None
        self._looked_at = 0.0
        self._refused: tuple[str, float, InvalidBundle] | None = None

    def get(self, now: float) -> ClassifierBundle:
        """What serves at `now`, in seconds of a clock that only moves on.

        Raises NoModel when nothing can serve, and StoreUnavailable.
        """
        looking, is_ours = self._look(now)
        serving = self._bundle
        if serving is None:
            return _result(looking, FIRST_SECONDS)
        if is_ours:
            wait([looking], PATIENCE_SECONDS)
        return self._bundle or serving

    def _look(self, now: float) -> tuple["Future[ClassifierBundle]", bool]:
        """The look that is going on or was the last, and whether it was begun by this call."""
        with self._lock:
            last = self._looking
            pause = self._check_seconds if self._bundle else min(RETRY_SECONDS, self._check_seconds)
            if last is not None and (not last.done() or now < self._looked_at + pause):
                return last, False
            self._looked_at = now
            self._looking = self._worker.submit(self._newest, now)
            return self._looking, True

    def _newest(self, now: float) -> ClassifierBundle:
        serving = self._bundle
        try:
            champion = read_champion(self._store, self.model)
            if serving is None or serving.manifest_sha256 != champion.manifest_sha256:
                serving = self._loaded(champion, now)
        except Exception as error:
            kept = f"v{serving.manifest.version} serves on" if serving else "nothing serves"
            told = error.detail if isinstance(error, SentinelleError) else repr(error)
            logger.error("The champion of %s can't be taken: %s (%s)", self.model, told, kept)
            if isinstance(error, (InvalidBundle, ValueError)):  # no location for a store
                raise NoModel(f"The champion of “{self.model}” can't be used: {told}") from error
            if isinstance(error, StoreUnavailable):  # whose words name buckets and accounts
                raise StoreUnavailable("The bucket does not answer; the log has why.") from error
            raise
        return serving

    def _loaded(self, champion: Champion, now: float) -> ClassifierBundle:
        digest = champion.manifest_sha256
        if self._refused and self._refused[0] == digest and now < self._refused[1]:
            raise self._refused[2]
        try:
            bundle = load_served(self._store, champion.location, digest)
        except InvalidBundle as error:
            self._refused = digest, now + REFUSED_SECONDS, error
            raise
        self._bundle = bundle
        logger.info("v%s of %s serves", bundle.manifest.version, self.model)
        return bundle


def _result(looking: "Future[ClassifierBundle]", seconds: float) -> ClassifierBundle:
    try:
        error = looking.exception(seconds)
    except TimeoutError:
        raise NoModel(f"The bundle is not there after {seconds:g} s; try again.") from None
    if error is None:
        return looking.result()
    # One for all who ask meanwhile: what each of them adds to its traceback must not stay.
    raise error.with_traceback(None)
