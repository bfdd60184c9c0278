"""How a process follows what the registry says: a thread that asks, and slots that are filled.

What does not load is refused with one line in the log and tried again later, and what a slot held
before goes on serving.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from engine.errors import SentinelleError

logger = logging.getLogger(__name__)
Loaded = TypeVar("Loaded")

RETRY_SECONDS = 10.0
"""How long after a refusal the same version is tried again: its files may have been restored."""


class Slot(Generic[Loaded]):
    """One thing that serves. It is swapped whole, so a request never meets half a change; reading
    `loaded` is safe from any thread, filling it is for one at a time."""

    def __init__(self, reason: str) -> None:
        self.loaded: Loaded | None = None
        self.reason = reason
        """Why nothing is loaded."""
        self._holds: Hashable = None
        self._serves = "nothing"
        self._refused: Hashable = None
        self._retry_at = 0.0

    def fill(self, wanted: Hashable, version: str, named: str, load: Callable[[], Loaded]) -> None:
        """Load what is `wanted`, if it is not what is held and was not refused just now.

        `version` is what answers call it, such as v1.0.0, `named` what the log calls it.
        """
        if self.loaded is not None and wanted == self._holds:
            self._refused = None
        elif wanted != self._refused or time.monotonic() >= self._retry_at:
            self._load(wanted, version, named, load)

    def _load(self, wanted: Hashable, version: str, named: str, load: Callable[[], Loaded]) -> None:
        try:
            self.loaded = load()
        except Exception as error:  # whatever is wrong with it, what serves goes on
            if wanted != self._refused:
                ours = not isinstance(error, SentinelleError)
                logger.error(
                    "Refused %s; %s keeps serving: %s", named, self._serves, error, exc_info=ours
                )
            self._refused, self._retry_at = wanted, time.monotonic() + RETRY_SECONDS
            self.reason = f"{version} is live but did not load; the server's log has why."
        else:
            self._holds, self._serves, self._refused = wanted, version, None
            logger.info("Serving %s", named)


class Follower:
    """Asks the registry every `LIVE_REFRESH_SECONDS`, from a thread of its own."""

    thread_name = "follower"

    def __init__(self) -> None:
        self._asked_at = 0.0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Ask once and load what the registry names, if that is not what serves.

        Raises DatabaseError or InterfaceError when the registry can't be asked.
        """
        raise NotImplementedError

    def start(self) -> None:
        """Load what is live, then follow it from a thread of this process until `stop`."""
        self._stop.clear()
        self._refresh_guarded()
        self._thread = threading.Thread(target=self._follow, name=self.thread_name, daemon=True)
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
