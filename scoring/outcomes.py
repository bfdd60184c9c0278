"""What a caller sends to `/outcomes`."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine.transaction import Identifier, Timestamp
from scoring.reports import Decoder, in_utc

Status = Annotated[
    Literal["SUCCESS", "FAILED", "CANCELED"], Meta(description="SUCCESS, FAILED or CANCELED")
]


class OutcomeReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one transaction ended, and when."""

    transaction_id: Identifier
    status: Status
    occurred_at: Timestamp

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "occurred_at", in_utc(self.occurred_at))


_DECODER = Decoder(OutcomeReport, "outcomes")


def decode_outcomes(body: bytes) -> OutcomeReport | list[OutcomeReport]:
    """Decode the body of `POST /outcomes`; raises InvalidRequest naming every faulty field."""
    return _DECODER.decode(body)


def outcome_field(sent: OutcomeReport | Sequence[OutcomeReport], at: int, field: str) -> str:
    """How answers name a field of the report at an index of what was sent."""
    return _DECODER.field(sent, at, field)
