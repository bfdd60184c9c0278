"""Callers that are Google service accounts: `Authorization: Bearer GOOGLE_ID_TOKEN`.

A token is checked here against Google's public certificates, which are kept for an hour; the
account's e-mail must be one of `GOOGLE_CALLERS`, which says what it may do.
https://cloud.google.com/docs/authentication/token-types#id
"""

import threading
import time
from typing import Any

import requests
from django.conf import settings

from engine.errors import IdentityUnavailable

ISSUERS = ("https://accounts.google.com", "accounts.google.com")
KEEP_SECONDS = 3_600.0
ASK_AGAIN_SECONDS = 60.0
"""How long an unknown key id is not worth asking Google again."""

CLOCK_SKEW_SECONDS = 10


class Certificates:
    """Google's certificates by key id. Safe to share between threads."""

    def __init__(self) -> None:
        self._by_id: dict[str, str] = {}
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def for_key(self, key_id: str | None) -> dict[str, str]:
        """The certificates, read again when they are old or lack `key_id`.

        Raises IdentityUnavailable when Google does not answer and none are kept.
        """
        with self._lock:
            age = time.monotonic() - self._read_at
            if age > KEEP_SECONDS or (key_id not in self._by_id and age > ASK_AGAIN_SECONDS):
                self._read()
            return self._by_id

    def _read(self) -> None:
        try:
            answer = requests.get(settings.GOOGLE_CERTIFICATES_URL, timeout=5)
            answer.raise_for_status()
            self._by_id = answer.json()
        except (requests.RequestException, ValueError) as error:
            if not self._by_id:
                raise IdentityUnavailable("Google's certificates could not be read.") from error
        self._read_at = time.monotonic()


certificates = Certificates()


def verified_email(token: str) -> str | None:
    """The e-mail of the account that a token proves, None when it proves nothing to this server.

    Raises IdentityUnavailable.
    """
    from google.auth import exceptions, jwt

    try:
        key_id = jwt.decode_header(token).get("kid")  # type: ignore[no-untyped-call]
        claims: dict[str, Any] = jwt.decode(  # type: ignore[no-untyped-call]
            token,
            certs=certificates.for_key(key_id),
            audience=settings.GOOGLE_ID_TOKEN_AUDIENCE,
            clock_skew_in_seconds=CLOCK_SKEW_SECONDS,
        )
    except (ValueError, TypeError, exceptions.GoogleAuthError):
        return None
    if claims.get("iss") not in ISSUERS or claims.get("email_verified") is not True:
        return None
    email = claims.get("email")
    return email if isinstance(email, str) else None
