"""A request to a classifier: the bytes that arrive."""

from typing import Any, Final

import msgspec

from engine.errors import FieldError
from engine.json_faults import NotFinite, invalid_request, parse_json

MAX_BODY: Final = 100_000
"""Bytes of a request: 200 inputs of 200 letters each, and room."""
ORIGIN: Final = r"https?://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[1-9][0-9]{0,4})?"
"""An origin, as browsers tell that of the page that asks."""

_DECODER = msgspec.json.Decoder(dict[str, Any])


def decode_inputs(body: bytes) -> dict[str, Any]:
    """Read a JSON object; what is in it is the business of `Definition.complete`.

    Raises InvalidRequest.
    """
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise invalid_request(_faults(body)) from None


def _faults(body: bytes) -> list[FieldError]:
    """What is wrong with a body that was refused. Raises InvalidRequest when it is no JSON."""
    found = parse_json(body)
    if not isinstance(found, dict):
        return [FieldError("body", "expected a JSON object of inputs")]
    not_finite = [
        FieldError(name[:64], "expected a finite number")
        for name, value in found.items()
        if isinstance(value, NotFinite) and name.isprintable()
    ]
    return not_finite or [
        FieldError(
            "body", "has a number that is not finite or a lone surrogate, or is nested too deeply"
        )
    ]
