"""Calls to Google's REST APIs that are not worth a client library: made once, when a project is
set up or an image is built."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from deployments.gcp.clients import address, session
from deployments.gcp.errors import CloudError, cloud_error, translated

Body = Mapping[str, Any]
Tell = Callable[[str], None]


class Hidden(str):
    """A value that is sent and not shown, and what is shown instead."""

    instead: str

    def __new__(cls, value: str, instead: str) -> "Hidden":
        hidden = super().__new__(cls, value)
        hidden.instead = instead
        return hidden


class Request(NamedTuple):
    """One call: as it is printed, and as it is sent."""

    method: str
    api: str
    """The API's name in its address: `storage` is https://storage.googleapis.com."""
    path: str
    body: Body | None = None
    operations: str = ""
    """The answer is a long-running operation: the path to its name, such as `v1`."""
    takes: float = 0.0
    """Seconds that it may take, if more than others."""

    @property
    def url(self) -> str:
        return address(self.api, self.path)

    def shown(self) -> Any:
        """The body with `Hidden` values masked."""
        return _masked(self.body)


class Waits(NamedTuple):
    """How long calls are waited for, in seconds."""

    first: float = 0.5
    longest: float = 10.0
    """Pauses grow from `first` to this."""
    retry_for: float = 120.0
    """A call that fails for the moment is tried again for this long: an API that was just enabled
    and an account that was just made take a minute to be known everywhere."""
    operation: float = 600.0
    """A long-running operation is followed for this long."""

    def pauses(self, within: float) -> "Pauses":
        return Pauses(self, time.monotonic() + within)


class Pauses:
    """Growing pauses until a deadline."""

    def __init__(self, waits: Waits, deadline: float) -> None:
        self._next, self._longest, self._deadline = waits.first, waits.longest, deadline

    def pause(self) -> bool:
        """Sleep and return True, or return False when the next pause would pass the deadline."""
        if time.monotonic() + self._next > self._deadline:
            return False
        time.sleep(self._next)
        self._next = min(2 * self._next, self._longest)
        return True


def send(request: Request, what: str) -> dict[str, Any]:
    """Make the call once, for `what`, and return the answer; raises CloudError."""
    with translated(what):
        response = session().request(
            request.method, request.url, json=request.body, timeout=60, max_allowed_time=90
        )
        if response.status_code >= 400:
            from google.api_core.exceptions import from_http_response

            raise from_http_response(response)  # type: ignore[no-untyped-call]
        answer: dict[str, Any] = response.json() if response.content else {}
    return answer


def send_and_wait(request: Request, what: str, waits: Waits, tell: Tell) -> dict[str, Any]:
    """Make the call; follow the operation it starts until it ends. Raises CloudError."""
    answer = send(request, what)
    if not request.operations:
        return answer
    patience = max(waits.operation, request.takes)
    pauses = waits.pauses(patience)
    began = time.monotonic()
    while not (answer.get("done") or answer.get("status") == "DONE"):
        if not pauses.pause():
            raise CloudError(
                f"{what}: Google is still at it after {patience:.0f} s (the operation "
                f"{answer['name']}). Start the command again later: it goes on from here."
            )
        tell(f"waiting for Google, {time.monotonic() - began:.0f} s")
        answer = _looked(request, what, answer)
    if "error" in answer:
        raise _ended_badly(what, answer["error"])
    result: dict[str, Any] = answer.get("response", {})
    return result


def _looked(request: Request, what: str, before: dict[str, Any]) -> dict[str, Any]:
    """The operation as it is now, or as it was when Google does not answer for the moment."""
    try:
        path = f"{request.operations}/{before['name']}"
        return send(Request("GET", request.api, path), what)
    except CloudError as error:
        if error.is_transient:
            return before
        raise


def _ended_badly(what: str, error: Mapping[str, Any]) -> CloudError:
    """The error of an operation; Compute Engine has a list of them."""
    if "errors" in error:
        words = " ".join(str(each.get("message", "")) for each in error["errors"])
        codes = " ".join(str(each.get("code", "")) for each in error["errors"])
        return cloud_error(what, words, codes=codes)
    return cloud_error(what, error.get("message", ""), status=_status(error.get("code")))


def _status(code: int | None) -> int:
    """The HTTP status of a code of google.rpc.Code."""
    from google.api_core.exceptions import from_grpc_status

    if code is None:
        return 500
    return int(from_grpc_status(code, "").code or 500)  # type: ignore[no-untyped-call]


def _masked(value: Any) -> Any:
    if isinstance(value, Hidden):
        return value.instead
    if isinstance(value, Mapping):
        return {name: _masked(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item) for item in value]
    return value
