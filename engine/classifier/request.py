"""A request to a classifier: the bytes that arrive."""

from typing import Any, Final

import msgspec

from engine.errors import FieldError, InvalidRequest

MAX_BODY: Final = 100_000
"""Bytes of a request: 200 inputs of 200 letters each, and room."""

_DECODER = msgspec.json.Decoder(dict[str, Any])


def decode_inputs(body: bytes) -> dict[str, Any]:
    """Read a JSON object; what is in it is the business of `Definition.complete`.

    Raises InvalidRequest.
    """
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        is_json = isinstance(error, msgspec.ValidationError)
        fault = "expected a JSON object of inputs" if is_json else f"not valid JSON: {error}"
        raise InvalidRequest(
            f"The request is not valid: {fault}.", [FieldError("body", fault)]
        ) from None
