"""What runs cost: resources × time × a table of list prices that is data, `prices.toml`.

Everything is a `Decimal` and exact; what is stored or shown is rounded last. Free tiers are said
and never subtracted: they belong to a billing account, of which we see only our own runs.
"""

import datetime
import re
import tomllib
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from msgspec import Meta

from deployments.gcp.limits import machine_types

OWN_FILE = Path(__file__).parent / "prices.toml"
HOUR = Decimal(3600)
MONTH = 730 * HOUR
"""Seconds in the month that Google reckons with."""
CENT = Decimal("0.01")
STORED = Decimal("0.0001")
Count = Annotated[int, Meta(ge=0)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file. No price is negative."""

    def __post_init__(self) -> None:
        for name, value in msgspec.structs.asdict(self).items():
            if isinstance(value, Decimal) and not value >= 0:
                raise ValueError(f"{name}: expected a price, 0 or more")


class Euro(_Table, frozen=True):
    """What a euro costs, and since when that holds."""

    usd_per_eur: Decimal
    date: datetime.date
    source: str

    def __post_init__(self) -> None:
        if not self.usd_per_eur > 0:
            raise ValueError("usd_per_eur: expected what a euro costs, more than 0")


class Tier(_Table, frozen=True):
    """What Cloud Run costs in some regions."""

    vcpu_second: Decimal
    gib_second: Decimal
    regions: tuple[str, ...]


class CloudRunPrices(_Table, frozen=True):
    source: str
    granularity_seconds: Decimal
    job_minimum_seconds: Decimal
    free_requests: Count
    million_requests: Decimal
    free_vcpu_seconds: Count
    free_gib_seconds: Count
    tiers: tuple[Tier, ...]

    def tier(self, region: str) -> Tier | None:
        return next((tier for tier in self.tiers if region in tier.regions), None)


class MachineRegion(_Table, frozen=True):
    """What a vCPU and a GB of memory cost an hour in some regions."""

    names: tuple[str, ...]
    vcpu_hour: Decimal
    gb_hour: Decimal


class FreeMachine(_Table, frozen=True):
    """One of these is free all month, with its disk."""

    machine_type: str
    regions: tuple[str, ...]
    disk_gb: Count


class VmPrices(_Table, frozen=True):
    date: datetime.date
    """Of what its types cost."""
    source: str
    family: str
    minimum_seconds: Decimal
    disk_gb_month: Decimal
    address_hour: Decimal
    free: FreeMachine
    regions: tuple[MachineRegion, ...]

    def hour(self, machine_type: str, region: str) -> Decimal | None:
        """What an hour of a machine type costs in a region; None when that is not known."""
        kind = machine_types().get(machine_type)
        found = next((each for each in self.regions if region in each.names), None)
        if kind is None or found is None or not machine_type.startswith(f"{self.family}-"):
            return None
        vcpu = Decimal(str(kind.vcpu if kind.share is None else kind.share))
        return vcpu * found.vcpu_hour + gibibytes(kind.memory_mb) * found.gb_hour


class StoragePrices(_Table, frozen=True):
    source: str
    gb_month: Decimal
    thousand_writes: Decimal
    thousand_reads: Decimal


class AlwaysOnPrices(_Table, frozen=True):
    """An instance of Cloud Run that is there all day: of a worker pool, or of a service that is
    charged by instance."""

    source: str
    date: datetime.date
    region: str
    worker_vcpu_second: Decimal
    worker_gib_second: Decimal
    instance_vcpu_second: Decimal
    instance_gib_second: Decimal


class CloudSqlPrices(_Table, frozen=True):
    source: str
    date: datetime.date
    region: str
    vcpu_hour: Decimal
    gb_hour: Decimal
    disk_gb_month: Decimal
    shared: dict[str, Decimal]
    """An hour of a machine type that shares its core."""

    def hour(self, tier: str) -> Decimal | None:
        """What an hour of a machine type costs; None when that is not known."""
        custom = re.fullmatch(r"db-custom-(\d+)-(\d+)", tier)
        if custom is None:
            return self.shared.get(tier)
        return int(custom[1]) * self.vcpu_hour + gibibytes(int(custom[2])) * self.gb_hour


class MemorystorePrices(_Table, frozen=True):
    source: str
    date: datetime.date
    region: str
    gib_hour: Decimal


class Prices(_Table, frozen=True):
    """The whole file. What stands all day came later: a file of PRICES_FILE may lack it."""

    date: datetime.date
    euro: Euro
    cloud_run: CloudRunPrices
    vm: VmPrices
    storage: StoragePrices
    always_on: AlwaysOnPrices | None = None
    cloud_sql: CloudSqlPrices | None = None
    memorystore: MemorystorePrices | None = None

    def euros(self, usd: Decimal) -> Decimal:
        return usd / self.euro.usd_per_eur


class Part(NamedTuple):
    """One line of a bill."""

    name: str
    """What is paid for, with its amounts: “8 vCPU × 2,700 s”."""
    usd: Decimal


class Cost(NamedTuple):
    """What something costs, or why that is not known."""

    usd: Decimal | None
    parts: tuple[Part, ...] = ()
    note: str = ""
    """Why it is not known, or which free tier may pay it."""

    @property
    def stored(self) -> Decimal | None:
        """As a run keeps it: to a hundredth of a cent."""
        return None if self.usd is None else self.usd.quantize(STORED)


def prices() -> Prices:
    """The table in force, read once a process. Raises ImproperlyConfigured when PRICES_FILE is not
    one."""
    return _read(Path(settings.PRICES_FILE) if settings.PRICES_FILE else OWN_FILE)


@lru_cache(maxsize=4)
def _read(path: Path) -> Prices:
    try:
        tables = tomllib.loads(path.read_text(), parse_float=Decimal)
        return msgspec.convert(tables, Prices)
    except OSError as error:
        raise ImproperlyConfigured(f"PRICES_FILE {path} can't be read: {error.strerror}.") from None
    except (ValueError, msgspec.ValidationError) as error:
        raise ImproperlyConfigured(
            f"PRICES_FILE {path} is no table of prices: {error}. docs/costs.md shows its form."
        ) from None


def dollars(usd: Decimal | None) -> str:
    """As people read it: “$0.57”, “under $0.01”; “unknown” of None."""
    return "unknown" if usd is None else _shown(usd, "$")


def about_dollars(usd: Decimal) -> str:
    """An amount that is not exact: “about $0.57”, “under $0.01”."""
    return dollars(usd) if 0 < usd < CENT else f"about {dollars(usd)}"


def euros(usd: Decimal | None) -> str:
    """The same in euros, at the table's rate."""
    return "unknown" if usd is None else _shown(prices().euros(usd), "€")


def _shown(amount: Decimal, sign: str) -> str:
    if 0 < amount < CENT:
        return f"under {sign}0.01"
    digits = 2 if amount == 0 or amount >= Decimal("0.095") else 4
    return f"{sign}{amount:,.{digits}f}"


# --- runs ----------------------------------------------------------------------------------


def estimate(launcher: str, resources: Mapping[str, Any], seconds: Decimal | float) -> Cost:
    """What a place charges for `resources` (of a run) during `seconds`, retries included in them.

    The cost is not known for a region or a machine type that the table does not have.
    """
    time = Decimal(str(seconds))
    if time < 0:
        return Cost(None, note="It ended before it began, by the clock of its place.")
    if launcher == "local":
        return Cost(Decimal(0), note="This machine is paid for anyway: nothing is counted for it.")
    if launcher == "cloud-run":
        return _cloud_run_job(resources, time)
    if launcher == "vm":
        return _machine(resources, time)
    return Cost(None, note=f"No prices are known for the launcher “{launcher}”.")


def actual(
    launcher: str,
    resources: Mapping[str, Any],
    started_at: datetime.datetime | None,
    ended_at: datetime.datetime | None,
) -> Cost:
    """What was charged between two times of the place's clock; unknown without both."""
    if launcher == "local":
        return estimate(launcher, resources, 0)
    if started_at is None or ended_at is None:
        return Cost(None, note="Its place did not say when it began and stopped to charge.")
    return estimate(launcher, resources, (ended_at - started_at).total_seconds())


def _cloud_run_job(resources: Mapping[str, Any], seconds: Decimal) -> Cost:
    table = prices().cloud_run
    region = resources.get("region", "")
    tier = table.tier(region)
    if tier is None:
        return Cost(None, note=f"The price table has no Cloud Run prices for the region {region}.")
    charged = max(_rounded_up(seconds, table.granularity_seconds), table.job_minimum_seconds)
    cpu, gib = Decimal(resources["cpu"]), gibibytes(resources["memory_mb"])
    parts = _time_parts(tier, cpu, gib, charged)
    free = (
        f"The first {table.free_vcpu_seconds:,} vCPU-s and {table.free_gib_seconds:,} GiB-s of a "
        "month are free for a billing account; that is not subtracted."
    )
    return _total(parts, free)


def _machine(resources: Mapping[str, Any], seconds: Decimal) -> Cost:
    table = prices().vm
    kind, region = resources.get("machine_type", ""), region_of(resources.get("zone", ""))
    hour = table.hour(kind, region)
    if hour is None:
        return Cost(None, note=f"The price table has no price for {kind} in {region}.")
    charged = max(_rounded_up(seconds, Decimal(1)), table.minimum_seconds)
    disk_gb = Decimal(resources["disk_gb"])
    time = f"{charged:,f} s"
    parts = (
        Part(f"{kind} × {time}", hour * charged / HOUR),
        Part(f"{disk_gb:,f} GB disk × {time}", disk_gb * table.disk_gb_month * charged / MONTH),
        Part(f"external address × {time}", table.address_hour * charged / HOUR),
    )
    return _total(parts, _free_machine(kind, region))


def _free_machine(kind: str, region: str) -> str:
    free = prices().vm.free
    if kind != free.machine_type or region not in free.regions:
        return ""
    return (
        f"One {kind} with {free.disk_gb} GB is free all month in {region}: if nothing else of the "
        "billing account uses that, this costs nothing. It is not subtracted."
    )


# --- a service, a bucket -------------------------------------------------------------------


def requests_cost(
    requests: int, seconds: Decimal, cpu: Decimal, memory_mb: int, region: str
) -> Cost:
    """What a Cloud Run service charges for `requests` of `seconds` each, one at a time on an
    instance: its CPU and memory meanwhile, and the requests beyond those that are free."""
    table = prices().cloud_run
    tier = table.tier(region)
    if tier is None:
        return Cost(None, note=f"The price table has no Cloud Run prices for the region {region}.")
    charged = requests * _rounded_up(seconds, table.granularity_seconds)
    beyond = max(0, requests - table.free_requests)
    fee = Part(
        f"{requests:,} requests, the first {table.free_requests:,} of a month free",
        table.million_requests * beyond / 1_000_000,
    )
    return _total((*_time_parts(tier, cpu, gibibytes(memory_mb), charged), fee))


def instances_cost(seconds: Decimal, cpu: Decimal, memory_mb: int, region: str) -> Cost:
    """What Cloud Run charges for so many seconds of instances, without the requests."""
    table = prices().cloud_run
    tier = table.tier(region)
    if tier is None:
        return Cost(None, note=f"The price table has no Cloud Run prices for the region {region}.")
    return _total(_time_parts(tier, cpu, gibibytes(memory_mb), seconds))


def storage_cost(gb: Decimal, months: Decimal, *, writes: int = 0, reads: int = 0) -> Cost:
    """What a bucket costs that holds `gb` for `months`, with its operations."""
    table = prices().storage
    parts = (
        Part(f"{gb:,f} GB × {months:,f} months", gb * months * table.gb_month),
        Part(f"{writes:,} writes", table.thousand_writes * writes / 1000),
        Part(f"{reads:,} reads", table.thousand_reads * reads / 1000),
    )
    return _total(parts)


# --- sums ----------------------------------------------------------------------------------


def gibibytes(memory_mb: int) -> Decimal:
    """Memory as Google charges it: 8,192 MB, written 8Gi or 8 GB, are 8."""
    return Decimal(memory_mb) / 1024


def region_of(zone: str) -> str:
    """us-central1 of us-central1-a."""
    return zone.rpartition("-")[0]


def _time_parts(tier: Tier, cpu: Decimal, gib: Decimal, seconds: Decimal) -> tuple[Part, Part]:
    time = f"{seconds.normalize():,f} s"
    return (
        Part(f"{cpu.normalize():f} vCPU × {time}", cpu * seconds * tier.vcpu_second),
        Part(f"{gib.normalize():f} GiB × {time}", gib * seconds * tier.gib_second),
    )


def _rounded_up(seconds: Decimal, step: Decimal) -> Decimal:
    return (seconds / step).to_integral_value(ROUND_CEILING) * step if step else seconds


def _total(parts: tuple[Part, ...], note: str = "") -> Cost:
    return Cost(sum((part.usd for part in parts), Decimal(0)), parts, note)
