"""Leases of rows: renewed while their worker works, and free again once they have passed."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

logger = logging.getLogger(__name__)


@contextmanager
def lease_kept(what: str, renew: Callable[[], object]) -> Iterator[None]:
    """Renew a lease from a thread for as long as the block takes.

    Args:
        what: whose lease it is, for the log.
    """
    done = Event()

    def go_on() -> None:
        try:
            while not done.wait(settings.TRAINING_LEASE_SECONDS / 3):
                try:
                    renew()
                except (DatabaseError, InterfaceError) as error:
                    logger.warning("%s: its lease was not renewed: %s", what, error)
                    connection.close()
        finally:
            connection.close()

    thread = Thread(target=go_on, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
