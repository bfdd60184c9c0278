"""JSON that is not what was expected: what is wrong with it, in words."""

import json
import math
from collections.abc import Sequence
from typing import Any

from engine.errors import FieldError, InvalidRequest


def invalid_request(faults: Sequence[FieldError]) -> InvalidRequest:
    """The error that names these faults."""
    fields = ", ".join(dict.fromkeys(fault.field for fault in faults))
    return InvalidRequest(f"The request is not valid: {fields}.", faults)


class NotFinite:
    """Stands for NaN, infinity or a number too large for a double: no field accepts it."""


def _number(text: str) -> float | NotFinite:
    value = float(text)
    return value if math.isfinite(value) else NotFinite()


def _integer(text: str) -> int | float | NotFinite:
    return int(text) if len(text) < 19 else _number(text)


def parse_json(body: bytes) -> Any:
    """Parse a body that msgspec refused, to look for its faults; a number that is not finite
    becomes an object that no field accepts. Raises InvalidRequest when it is not JSON at all."""
    try:
        return json.loads(
            body.decode(),
            parse_float=_number,
            parse_int=_integer,
            parse_constant=lambda _: NotFinite(),
        )
    except UnicodeDecodeError:
        fault = "not valid UTF-8"
    except RecursionError:
        fault = "nested too deeply"
    except json.JSONDecodeError as error:
        fault = f"not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
    raise invalid_request([FieldError("body", fault)])
