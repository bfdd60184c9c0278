"""Rows are checked before they are saved."""

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

from engine.errors import FieldError, SentinelleError


def checked(row: models.Model, *, error: type[SentinelleError], **clean: Any) -> None:
    """Call `full_clean`, and raise what it finds as `error`."""
    try:
        row.full_clean(**clean)
    except ValidationError as invalid:
        faults = [
            FieldError(field, " ".join(messages))
            for field, messages in invalid.message_dict.items()
        ]
        raise error("; ".join(f"{f.field}: {f.message}" for f in faults), faults) from None
