"""What this process predicts with: the champion of each classifier that it was asked for.

The first request for a classifier loads its champion and the others for it wait; from then on a
thread follows the registry and swaps in what was promoted. At most `LIVE_CLASSIFIERS` are kept
loaded: one more takes the place of the one that was not asked for longest.
"""

import threading
from collections import OrderedDict
from typing import NamedTuple

from django.conf import settings

from deployments import artifacts
from deployments.models import ModelVersion, RegisteredModel
from deployments.selectors import champions, model_by_name
from engine.classifier.bundle import ClassifierBundle
from engine.errors import InvalidBundle, NoModel, NotRegistered, UnknownModel
from engine.kinds import CLASSIFIER
from scoring.following import Follower, Slot


class Predicting(NamedTuple):
    """All that an answer needs, and the rows that it will name."""

    bundle: ClassifierBundle
    model_id: int
    version_id: int


class _Entry:
    """A classifier that was asked for."""

    def __init__(self, name: str) -> None:
        self.slot: Slot[Predicting] = Slot(f"No version of “{name}” is live yet: promote one.")
        self.was_looked_up = False
        self._name = name
        self._lock = threading.Lock()

    def look_up(self) -> None:
        """Load the champion, once; whoever asks meanwhile waits."""
        with self._lock:
            if not self.was_looked_up:
                for version in champions([self._name]):
                    self._fill(version)
                self.was_looked_up = True

    def fill(self, version: ModelVersion) -> None:
        """Serve this version, if it is not what serves and loads."""
        with self._lock:
            self._fill(version)

    def _fill(self, version: ModelVersion) -> None:
        self.slot.fill(version.pk, f"v{version.version}", str(version), lambda: _load(version))


class LiveClassifiers(Follower):
    """The classifiers of one process. Asking is safe from any thread."""

    thread_name = "live-classifiers"

    def __init__(self) -> None:
        super().__init__()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._entries_lock = threading.Lock()

    def predicting(self, name: str) -> Predicting:
        """What predicts for a model now; raises UnknownModel, NoModel."""
        self._refresh_without_thread()
        entry = self._entry(name)
        found = entry.slot.loaded
        if found is None:
            raise NoModel(entry.slot.reason)
        return found

    def loaded(self) -> list[str]:
        """Names of the classifiers that are kept, those that were asked for last at the end."""
        with self._entries_lock:
            return list(self._entries)

    def refresh(self) -> None:
        with self._entries_lock:
            entries = {name: each for name, each in self._entries.items() if each.was_looked_up}
        if entries:
            for version in champions(entries):
                entries[version.model.name].fill(version)

    def _entry(self, name: str) -> _Entry:
        with self._entries_lock:
            entry = self._entries.get(name)
            if entry is not None:
                self._entries.move_to_end(name)
        if entry is None:
            entry = self._new_entry(classifier_by_name(name))
        if not entry.was_looked_up:
            entry.look_up()
        return entry

    def _new_entry(self, model: RegisteredModel) -> _Entry:
        with self._entries_lock:
            entry = self._entries.setdefault(model.name, _Entry(model.name))
            while len(self._entries) > settings.LIVE_CLASSIFIERS:
                self._entries.popitem(last=False)
        return entry


live_classifiers = LiveClassifiers()


def classifier_by_name(name: str) -> RegisteredModel:
    """The classifier; raises UnknownModel, for a model of another kind too."""
    try:
        model = model_by_name(name)
    except NotRegistered:
        raise UnknownModel(f"There is no model “{name}”.") from None
    if model.kind != CLASSIFIER:
        raise UnknownModel(f"“{name}” is no classifier: it scores transactions, at /score.")
    return model


def _load(version: ModelVersion) -> Predicting:
    bundle = artifacts.load(version.location, version.manifest_sha256)
    if not isinstance(bundle, ClassifierBundle):
        raise InvalidBundle(f"The bundle in {version.location} is not a classifier.")
    return Predicting(bundle, version.model_id, version.pk)
