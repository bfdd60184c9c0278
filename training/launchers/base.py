"""What every launcher is: five verbs on a run folder."""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from engine.errors import SentinelleError
from engine.store import PAGE_SECONDS, Store, open_store


class Launch(NamedTuple):
    """What a launcher is told of a run: everything else is in the run folder."""

    run_id: str
    folder: str
    """Location of the run folder, a path or gs://bucket/prefix."""
    model: str
    version: str
    resources: Mapping[str, Any]
    """As `resources.py` made them when the run was requested."""


class Seen(NamedTuple):
    """What a place says of a program."""

    ended: str | None = None
    """None while it waits or runs, then how it ended in words (“exit status 0”)."""
    message: str = ""
    """What the place does meanwhile, for the person who waits (“Starting the machine”)."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    """When the place began and stopped to charge, by its own clock."""
    resources: Mapping[str, Any] = {}
    """What it really has of the run's resources, where the place tells."""


class PlaceBusy(SentinelleError):
    """The place can't take the run now; it stays queued. The detail says what it waits for."""

    code = "PLACE_BUSY"


class Launcher(Protocol):
    """Starts the training program on a run folder and watches it. It knows no database.

    Every verb may raise `deployments.gcp.errors.CloudError`.
    """

    is_attached: bool
    """Whether the program ends with the worker that started it, which then stays with it. If not,
    any worker can look at it at any time by its handle."""
    poll_seconds: float

    def start(self, launch: Launch) -> str:
        """Start the program and return its handle, a text that outlives the worker.

        A second call for the same run, after a worker died or an answer was lost, finds what the
        first one started instead of starting it twice. Raises PlaceBusy.
        """

    def find(self, launch: Launch) -> str:
        """The handle of what was started for a run, by a worker that died or whose answer was
        lost; empty when nothing was. Raises a transient CloudError while that can't be told."""

    def poll(self, handle: str) -> Seen:
        """Look at the program."""

    def cancel(self, handle: str) -> None:
        """End the program and everything that was started for it, machine included. Called after
        every end too: nothing happens when there is nothing left."""

    def logs(self, handle: str, folder: Store) -> str:
        """Return what the program has logged so far, and what the place says beside it."""


def program_log(folder: Store) -> str:
    """The log that the program wrote into its run folder, in order."""
    chunks = folder.describe_all("log")
    return "".join(_chunk(folder.location, name, facts.size) for name, facts in chunks.items())


def program_log_tail(folder: Store, lines: int) -> str:
    """The last lines of `program_log`: no more chunks are read than they are in."""
    text = ""
    for name, facts in reversed(folder.describe_all("log").items()):
        text = _chunk(folder.location, name, facts.size) + text
        if text.count("\n") > lines:
            break
    return "\n".join(text.splitlines()[-lines:])


class LogReader:
    """What the program's log gained since it was last read: a chunk is fetched once."""

    def __init__(self, folder: Store) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[int, str]] = {}

    def read(self) -> str:
        """The new text; empty when there is none."""
        fresh = ""
        for name, facts in self._folder.describe_all("log").items():
            size, before = self._seen.get(name, (-1, ""))
            if facts.size != size:
                text = self._folder.read(name).decode(errors="replace")
                self._seen[name] = (facts.size, text)
                fresh += text.removeprefix(before)
        return fresh


@lru_cache(maxsize=500)
def _chunk(location: str, name: str, _size: int) -> str:
    """A chunk is read once: a page that follows a run asks for all of them every few seconds."""
    return open_store(location, seconds=PAGE_SECONDS).read(name).decode(errors="replace")
