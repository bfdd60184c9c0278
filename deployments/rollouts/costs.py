"""What deployments have cost so far: the instance time that Google has counted × the price table.

Google keeps what it has measured for six weeks, so it is read every hour and added up here.
"""

import logging
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from deployments.costs import Cost, about_dollars, instances_cost
from deployments.gcp.errors import CloudError
from deployments.gcp.metrics import LAG, billed_seconds
from deployments.models import Deployment
from deployments.rollouts.specs import service_name
from deployments.rollouts.transitions import LIVE
from deployments.rollouts.wishes import read_wishes

logger = logging.getLogger(__name__)
KEPT = timedelta(days=42)
EVERY, PIECE = timedelta(minutes=10), timedelta(hours=2)
READS = 12
"""Of one deployment at a time; the rest is read an hour later."""


class Told(NamedTuple):
    """A cost, and what people are told of it."""

    cost: Cost | None
    words: str


def deployment_cost(row: Deployment) -> Told:
    """What its instances have cost, as far as it was read."""
    if row.billed_seconds is None or row.billed_at is None:
        return Told(None, "not measured yet")
    wishes, seconds = read_wishes(row.wishes), Decimal(str(round(row.billed_seconds, 1)))
    region = row.service.region
    cost = instances_cost(seconds, Decimal(wishes.cpu), wishes.memory_mb, region)
    if cost.usd is None:
        return Told(cost, cost.note)
    return Told(cost, f"{about_dollars(cost.usd)} until {row.billed_at:%Y-%m-%d %H:%M}")


def deployments_measure(*, now: datetime) -> int:
    """Read on what the revisions that serve were charged for; how many were read."""
    read = 0
    until = (now - LAG).replace(second=0, microsecond=0)
    live = Deployment.objects.filter(state__in=LIVE).exclude(revision="")
    for row in live.select_related("service"):
        read += _measure(row, until)
    return read


def _measure(row: Deployment, until: datetime) -> bool:
    began = row.created_at.replace(second=0, microsecond=0)
    since = max(row.billed_at or began, until - KEPT)
    if until - since < EVERY:
        return False
    total, read = row.billed_seconds or 0.0, since
    name = service_name(row.service)
    try:
        for _ in range(READS):
            # In pieces whose periods are minutes, so that none is counted twice.
            end = min(read + PIECE, until)
            total += billed_seconds(name, since=read, until=end, revision=row.revision)
            read = end
            if read == until:
                break
    except CloudError as error:
        logger.warning("What %s costs can't be read now: %s", row, error)
    # Only once, if two read it at a time.
    same = Deployment.objects.filter(pk=row.pk, billed_at=row.billed_at)
    return read > since and same.update(billed_seconds=total, billed_at=read) == 1
