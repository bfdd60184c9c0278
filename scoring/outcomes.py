"""What a caller sends to `/outcomes`: one report or a list, every fault named at once."""

from collections.abc import Iterator
from datetime import UTC
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from engine.errors import FieldError
from engine.transaction import (
    Identifier,
    Timestamp,
    invalid_request,
    is_in_range,
    parse_json,
    struct_faults,
)

MAX_REPORTS = 1_000

Status = Annotated[
    Literal["SUCCESS", "FAILED", "CANCELED"], Meta(description="SUCCESS, FAILED or CANCELED")
]


class OutcomeReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one transaction ended, and when."""

    transaction_id: Identifier
    status: Status
    occurred_at: Timestamp

    def __post_init__(self) -> None:
        if self.occurred_at.tzinfo is None:
            aware = self.occurred_at.replace(tzinfo=UTC)
            msgspec.structs.force_setattr(self, "occurred_at", aware)
        if not is_in_range(self.occurred_at):
            raise ValueError("occurred_at")
        msgspec.structs.force_setattr(self, "occurred_at", self.occurred_at.astimezone(UTC))


_DECODER = msgspec.json.Decoder(
    OutcomeReport | Annotated[list[OutcomeReport], Meta(min_length=1, max_length=MAX_REPORTS)]
)


def decode_outcomes(body: bytes) -> list[OutcomeReport]:
    """Decode the body of `POST /outcomes`; raises InvalidRequest naming every faulty field, such
    as `outcomes[3].status` (`status` alone when one object was sent)."""
    try:
        decoded = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        faults = list(_faults(parse_json(body)))
        raise invalid_request(faults or [FieldError("body", str(error))]) from None
    return decoded if isinstance(decoded, list) else [decoded]


def _faults(raw: Any) -> Iterator[FieldError]:
    if isinstance(raw, dict):
        yield from struct_faults(OutcomeReport, raw, "")
    elif not isinstance(raw, list):
        yield FieldError("body", "expected a JSON object or a list of them")
    elif not 1 <= len(raw) <= MAX_REPORTS:
        yield FieldError("outcomes", f"expected 1 to {MAX_REPORTS} of them")
    else:
        for at, item in enumerate(raw):
            if isinstance(item, dict):
                yield from struct_faults(OutcomeReport, item, f"outcomes[{at}].")
            else:
                yield FieldError(f"outcomes[{at}]", "expected a JSON object")
