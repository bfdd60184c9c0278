"""The control group: a small random share of what the models block is let through.

A blocked payment gets no chargeback, so of what is always blocked nobody ever learns whether it was
fraud. Which ones are let through depends on nothing but their id and the server's secret: nobody
can choose to be among them, and asking again gives the same.
"""

from dataclasses import replace
from typing import Final

from django.conf import settings
from django.utils.crypto import salted_hmac

from engine.policy import APPROVE, BLOCK
from engine.scorer import Decision

CONTROL_GROUP: Final = "CONTROL_GROUP"
"""The reason of a block that was let through, before those of the block."""
_SALT: Final = "sentinelle.control-group"
_WHOLE: Final = 2**64


def let_through(decision: Decision, transaction_id: str) -> tuple[Decision, float | None]:
    """The decision as it is given, and the share that is let through where it is of the group.

    A rule's block is never let through.
    """
    share: float = settings.CONTROL_SHARE
    # Where a rule blocked, the models were not asked.
    by_models = decision.decision == BLOCK and decision.supervised_score is not None
    if not share or not by_models or not _is_drawn(transaction_id, share):
        return decision, None
    reasons = (CONTROL_GROUP, *decision.reasons)
    return replace(decision, decision=APPROVE, reasons=reasons), share


def _is_drawn(transaction_id: str, share: float) -> bool:
    digest = salted_hmac(_SALT, transaction_id, algorithm="sha256").digest()
    return int.from_bytes(digest[:8], "big") < share * _WHOLE
