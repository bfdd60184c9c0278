"""Decoding what callers report: one object or a list, every fault named at once."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from engine.errors import FieldError
from engine.json_faults import invalid_request, parse_json
from engine.transaction import is_in_range, struct_faults

MAX_REPORTS = 1_000

Report = TypeVar("Report", bound=msgspec.Struct)


class Decoder(Generic[Report]):
    """Decodes bodies that hold one `struct` or 1 to 1,000 of them; `name` is what they are called
    in answers, such as “labels”."""

    def __init__(self, struct: type[Report], name: str) -> None:
        several = Annotated[list[struct], Meta(min_length=1, max_length=MAX_REPORTS)]  # type: ignore[valid-type]
        self._struct = struct
        self._name = name
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(struct | several)

    def decode(self, body: bytes) -> Report | list[Report]:
        """The report or the reports of a body; raises InvalidRequest naming every faulty field,
        such as `labels[3].known_at` (`known_at` alone when one object was sent)."""
        try:
            decoded: Report | list[Report] = self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            faults = list(self._faults(parse_json(body)))
            raise invalid_request(faults or [FieldError("body", str(error))]) from None
        return decoded

    def field(self, sent: Report | Sequence[Report], at: int, field: str) -> str:
        """How answers name a field of the report at an index of what was sent."""
        return field if isinstance(sent, self._struct) else f"{self._name}[{at}].{field}"

    def _faults(self, raw: Any) -> Iterator[FieldError]:
        if isinstance(raw, dict):
            yield from struct_faults(self._struct, raw, "")
        elif not isinstance(raw, list):
            yield FieldError("body", "expected a JSON object or a list of them")
        elif not 1 <= len(raw) <= MAX_REPORTS:
            yield FieldError(self._name, f"expected 1 to {MAX_REPORTS} of them")
        else:
            for at, item in enumerate(raw):
                if isinstance(item, dict):
                    yield from struct_faults(self._struct, item, f"{self._name}[{at}].")
                else:
                    yield FieldError(f"{self._name}[{at}]", "expected a JSON object")


def listed(sent: Report | Sequence[Report]) -> Sequence[Report]:
    """What was sent as a list, one report or several."""
    return sent if isinstance(sent, Sequence) else [sent]


def in_utc(moment: datetime) -> datetime:
    """A time in UTC, which is meant where no zone was sent; raises ValueError for a year before
    1970 or after 9998."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not is_in_range(aware):
        raise ValueError(moment)
    return aware.astimezone(UTC)
