"""Who may call the API: keys with scopes, and the open door of a demo home.

Keys are looked up by their SHA-256 and remembered for `KEY_CACHE_SECONDS`, so that a busy caller
costs no query a request and a revoked key still ends within that time.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, ClassVar

from django.conf import settings
from django.core.cache import cache
from redis import RedisError
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from deployments.models import ApiKey, Scope
from deployments.selectors import api_key_find
from scoring.google_tokens import verified_email

logger = logging.getLogger(__name__)
KEYWORD = "Api-Key"
_CACHE_LIMIT = 1_024
_FORWARDING_HEADERS = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: the key's id and name, and what it may do. DRF's user."""

    key_id: str
    name: str
    scopes: frozenset[str]
    is_authenticated: ClassVar[bool] = True


DEMO_CALLER = Caller("demo", "demo home", frozenset(Scope.values))


class KeyCache:
    """Callers by the digest of their key, each believed for a while.

    Only keys that exist are kept, so guessing can neither fill it nor hide a new key. Shared by
    the threads of a process: every operation is one of a dict's atomic ones.
    """

    def __init__(self) -> None:
        self._entries: dict[str, tuple[float, Caller]] = {}

    def get(self, digest: str) -> Caller | None:
        """The caller, unless it is unknown or was read too long ago."""
        entry = self._entries.get(digest)
        return entry[1] if entry and time.monotonic() < entry[0] else None

    def put(self, digest: str, caller: Caller, read_at: float) -> None:
        """Remember a caller read from the database at `read_at` (monotonic seconds)."""
        if len(self._entries) >= _CACHE_LIMIT:
            self.clear()
        self._entries[digest] = (read_at + settings.KEY_CACHE_SECONDS, caller)

    def clear(self) -> None:
        """Forget everyone."""
        self._entries.clear()


key_cache = KeyCache()


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Api-Key KEY`, or `Bearer TOKEN` of a Google account where one is expected."""

    def authenticate(self, request: Request) -> tuple[Caller, None] | None:
        """The caller of a valid key or token; None without credentials; raises for wrong ones."""
        header = request.META.get("HTTP_AUTHORIZATION", "")
        if not header:
            return (DEMO_CALLER, None) if _is_demo_visitor(request.META) else None
        keyword, _, credential = header.partition(" ")
        if keyword.lower() == KEYWORD.lower():
            return _caller(credential.strip(), _caller_of_key), None
        if keyword.lower() == "bearer" and settings.GOOGLE_ID_TOKEN_AUDIENCE:
            return _caller(credential.strip(), _caller_of_token), None
        raise AuthenticationFailed(f"Authenticate with “Authorization: {KEYWORD} KEY”.")

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002
        """The value of `WWW-Authenticate`."""
        return KEYWORD


def _caller(credential: str, find: Callable[[str], Caller]) -> Caller:
    """The caller of a credential, remembered for a while; `find` raises when there is none."""
    digest = ApiKey.digest(credential)
    if caller := key_cache.get(digest):
        return caller
    read_at = time.monotonic()
    caller = find(credential)
    key_cache.put(digest, caller, read_at)
    return caller


def _caller_of_key(key: str) -> Caller:
    found = api_key_find(key)
    if found is None:
        raise AuthenticationFailed("The key is unknown or was revoked.")
    return Caller(str(found.pk), found.name, frozenset(found.scopes))


def _caller_of_token(token: str) -> Caller:
    email = verified_email(token)
    if email is None:
        raise AuthenticationFailed("The token is not one of Google's for this server, or is old.")
    scopes = settings.GOOGLE_CALLERS.get(email)
    if scopes is None:
        raise AuthenticationFailed(f"{email} is not among the callers of this server.")
    return Caller(email, email, frozenset(scopes))


def _is_demo_visitor(meta: dict[str, Any]) -> bool:
    """Whether a demo home is asked from this machine, not through a proxy on it."""
    if not settings.DEMO or any(name in meta for name in _FORWARDING_HEADERS):
        return False
    try:
        return ip_address(meta.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False


class HasScope(BasePermission):
    """The caller's key carries the view's `required_scope`. A view without one is open to none."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Whether the caller may use the view."""
        scope = getattr(view, "required_scope", None)
        self.message = f"The key lacks the scope “{scope}”."
        return isinstance(request.user, Caller) and scope in request.user.scopes


class KeyRateThrottle(BaseThrottle):
    """At most `RATE_LIMIT` requests a key in each second, minute, hour or day of the clock.

    The counter is in the shared cache, so the limit holds over all processes. Decisions matter
    more than the limit: while the cache is out of reach, requests pass and the log says so.
    """

    _SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

    def allow_request(self, request: Request, view: Any) -> bool:  # noqa: ARG002
        """Count the request and say whether it is within the limit."""
        limit = settings.RATE_LIMIT.partition("/")[0]
        return not limit or self._counted(request.user, 1) <= int(limit)

    def allow_batch(self, request: Request, size: int) -> bool:
        """Count a request that was let through as `size` of them, and say whether those before it
        were within the limit: so it is one batch that may go beyond it, not all that come at once.
        """
        limit = settings.RATE_LIMIT.partition("/")[0]
        return not limit or self._counted(request.user, size - 1) - size < int(limit)

    def _counted(self, caller: object, more: int) -> int:
        """Count so many requests of a caller; returns how many there are in this window now."""
        if not isinstance(caller, Caller):
            return 0
        seconds = self._SECONDS[settings.RATE_LIMIT.partition("/")[2]]
        now = time.time()
        window = int(now // seconds)
        self._wait: float = (window + 1) * seconds - now
        name = f"rate:{caller.key_id}:{window}"
        try:
            cache.add(name, 0, timeout=2 * seconds)
            return int(cache.incr(name, more))
        except (RedisError, ValueError) as error:  # ValueError: evicted between the two
            logger.warning("The rate limit is not applied, the cache does not answer: %s", error)
            return 0

    def wait(self) -> float:
        """Seconds until the next window."""
        return self._wait
