"""Reads of what was scored, for people. The hot path reads in `scoring.history`."""

import tomllib

from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast

from deployments.models import RuleSet
from engine.scorer import ANOMALY_HIGH, SUPERVISED_HIGH
from scoring.models import Attempt, ScoreRecord

SEARCH_LIMIT = 1_000
"""How many of a wallet's latest transactions a search finds: a shop may have millions."""

Records = QuerySet[ScoreRecord]


def records_found(records: Records, term: str) -> Records:
    """The records of a transaction id, or of a wallet's latest transactions on either side."""
    found = set(Attempt.objects.filter(transaction_id=term).values_list("pk", flat=True))
    sides = {
        "source_wallet_id": ("-source_time", "-id"),
        "destination_wallet_id": ("-id",),
    }
    for side, order in sides.items():
        latest = Attempt.objects.filter(Q((side, term))).order_by(*order)
        found.update(latest.values_list("pk", flat=True)[:SEARCH_LIMIT])
    return records.filter(pk__in=found)


def records_with_reason(records: Records, reason: str) -> Records:
    """Those that gave `reason`. As text, because SQLite can't look into a JSON list."""
    text = Cast("reasons", TextField())
    return records.annotate(reasons_text=text).filter(reasons_text__contains=f'"{reason}"')


def known_reasons() -> list[str]:
    """Every reason that a decision may have: those of all rule sets, then the models'."""
    sources = RuleSet.objects.values_list("source", flat=True)
    rules = [rule for source in sources for rule in tomllib.loads(source).get("rule", [])]
    return [*sorted({rule["reason"] for rule in rules}), SUPERVISED_HIGH, ANOMALY_HIGH]
