"""What Sentinelle itself costs on Google while nobody uses it: what stands all day, by the month.

List prices of one region, which is said; what the table does not have is not known.
"""

from decimal import Decimal
from typing import NamedTuple

from deployments.costs import HOUR, MONTH, Cost, Part, dollars, prices

HOURS = MONTH / HOUR


class Size(NamedTuple):
    """How large what stands all day is."""

    tier: str = "db-custom-1-3840"
    """Machine type of the database."""
    disk_gb: int = 10
    redis_gb: int = 1
    worker_cpu: int = 1
    worker_gib: int = 2


class Standing(NamedTuple):
    """One thing that costs every hour."""

    what: str
    month: Cost
    region: str = ""
    """Whose price it is; empty when none is known."""


def standing(size: Size) -> list[Standing]:
    """What a control plane of that size costs in a month of 730 hours."""
    return [_database(size), _redis(size), _workers(size)]


def table(size: Size, region: str) -> str:
    """The costs as lines of text, for a control plane in `region`."""
    rows = standing(size)
    lines = [f"  {row.what:58} {_amount(row):>10} a month" for row in rows]
    known = [row.month.usd for row in rows if row.month.usd is not None]
    least = "" if len(known) == len(rows) else "at least "
    together = f"{least}{dollars(sum(known, Decimal(0)))}"
    lines.append(f"  {'together, used or not':58} {together:>10} a month")
    elsewhere = sorted({row.region for row in rows if row.region not in ("", region)})
    if elsewhere:
        lines.append(
            f"  These are prices of {', '.join(elsewhere)}. Those of {region} are not known here; "
            "they may be up to 40 % above."
        )
    lines.append(
        "  Beside them: web and jobs while they run, the bucket, backups, traffic to the outside. "
        "docs/costs.md says where the prices are from."
    )
    return "\n".join(lines)


def _amount(row: Standing) -> str:
    return "not known" if row.month.usd is None else dollars(row.month.usd)


def _database(size: Size) -> Standing:
    what = f"Cloud SQL, PostgreSQL on {size.tier}, {size.disk_gb} GB"
    listed = prices().cloud_sql
    hour = listed.hour(size.tier) if listed else None
    if listed is None or hour is None:
        return Standing(what, Cost(None, note=f"The price table has no price for {size.tier}."))
    parts = (
        Part(f"{size.tier} × {HOURS:.0f} h", hour * HOURS),
        Part(f"{size.disk_gb} GB of disk", size.disk_gb * listed.disk_gb_month),
    )
    return Standing(what, _sum(parts), listed.region)


def _redis(size: Size) -> Standing:
    what = f"Memorystore for Redis, basic, {size.redis_gb} GB"
    listed = prices().memorystore
    if listed is None:
        return Standing(what, Cost(None, note="The price table has no price for Memorystore."))
    part = Part(f"{size.redis_gb} GB × {HOURS:.0f} h", size.redis_gb * listed.gib_hour * HOURS)
    return Standing(what, _sum((part,)), listed.region)


def _workers(size: Size) -> Standing:
    what = f"worker pool, 1 instance, {size.worker_cpu} vCPU, {size.worker_gib} GiB"
    listed = prices().always_on
    if listed is None:
        return Standing(what, Cost(None, note="The price table has no price for worker pools."))
    parts = (
        Part(f"{size.worker_cpu} vCPU", size.worker_cpu * listed.worker_vcpu_second * MONTH),
        Part(f"{size.worker_gib} GiB", size.worker_gib * listed.worker_gib_second * MONTH),
    )
    return Standing(what, _sum(parts), listed.region)


def _sum(parts: tuple[Part, ...]) -> Cost:
    return Cost(sum((part.usd for part in parts), Decimal(0)), parts)
