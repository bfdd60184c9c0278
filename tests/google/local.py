"""Lets this process find a local Google in Google's place."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deployments.gcp import clients
from tests.google.server import GoogleServer


@contextmanager
def talking_to(google: GoogleServer) -> Iterator[GoogleServer]:
    """While it lasts, our clients of Google and those of child processes talk to `google`."""
    from google.auth.compute_engine import _metadata

    with pytest.MonkeyPatch.context() as patch:
        for name, value in google.environment().items():
            patch.setenv(name, value)
        # Read from the environment when google-auth was imported, which may be long ago.
        patch.setattr(_metadata, "_GCE_METADATA_HOST", google.host)
        _forget()
        yield google
    _forget()


def _forget() -> None:
    for made in (clients._client, clients._logging, clients._session):
        made.cache_clear()
