"""What runs cost, by hand and by what must hold for any of them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from deployments import costs

JOB = {"cpu": 8, "memory_mb": 8192, "region": "europe-west1"}
MICRO = {"machine_type": "e2-micro", "zone": "us-central1-a", "disk_gb": 30}
MEDIUM = {"machine_type": "e2-medium", "zone": "europe-west1-b", "disk_gb": 30}
CENT = Decimal("0.01")

SECONDS = st.decimals(min_value=0, max_value=10**6, places=1)
PLACES = st.one_of(
    st.builds(
        lambda cpu, memory_mb, region: (
            "cloud-run",
            {"cpu": cpu, "memory_mb": memory_mb, "region": region},
        ),
        st.integers(1, 8),
        st.integers(512, 32_768),
        st.sampled_from(["europe-west1", "us-central1", "europe-west3"]),
    ),
    st.builds(
        lambda kind, zone, disk_gb: (
            "vm",
            {"machine_type": kind, "zone": zone, "disk_gb": disk_gb},
        ),
        st.sampled_from(["e2-micro", "e2-medium", "e2-standard-8"]),
        st.sampled_from(["us-central1-a", "europe-west1-d"]),
        st.integers(10, 500),
    ),
    st.just(("local", {"cpu": None, "memory_mb": None})),
)


def usd(launcher: str, resources: dict, seconds: Decimal | float) -> Decimal:
    cost = costs.estimate(launcher, resources, seconds)
    assert cost.usd is not None
    return cost.usd


# --- the two examples that people reckon with ---


def test_a_training_of_45_minutes_on_8_vcpu_and_8_gb():
    cost = costs.estimate("cloud-run", JOB, 2700)
    assert [part.usd for part in cost.parts] == [Decimal("0.5184"), Decimal("0.054")]
    assert [part.name for part in cost.parts] == ["8 vCPU × 2,700 s", "8 GiB × 2,700 s"]
    assert cost.usd == Decimal("0.5724")
    assert costs.dollars(cost.usd) == "$0.57"
    assert usd("cloud-run", JOB, 27_000).quantize(CENT) == Decimal("5.72"), "ten of them"


def test_a_million_requests_of_a_fifth_of_a_second_on_2_vcpu_and_2_gb():
    cost = costs.requests_cost(1_000_000, Decimal("0.2"), Decimal(2), 2048, "europe-west1")
    assert [part.usd for part in cost.parts] == [Decimal("9.6"), Decimal("1"), 0]
    assert cost.usd == Decimal("10.6")
    assert costs.dollars(cost.usd) == "$10.60"
    one = costs.requests_cost(1, Decimal("0.2"), Decimal(2), 2048, "europe-west1")
    assert [part.usd for part in one.parts[:2]] == [Decimal("0.0000096"), Decimal("0.000001")]


def test_requests_beyond_the_free_ones_cost_a_fee():
    def fee(requests: int) -> Decimal:
        cost = costs.requests_cost(requests, Decimal("0.2"), Decimal(2), 2048, "us-central1")
        return cost.parts[-1].usd

    assert [fee(each * 1_000_000) for each in (1, 2, 3)] == [0, 0, Decimal("0.4")]


# --- machines ---


def test_a_machine_is_charged_with_its_disk_and_its_address():
    cost = costs.estimate("vm", MEDIUM, 3600)
    disk = 30 * Decimal("0.04") / 730
    assert [part.usd for part in cost.parts] == [Decimal("0.03685773"), disk, Decimal("0.005")]
    assert cost.note == ""
    month = costs.estimate("vm", MEDIUM | {"disk_gb": 10}, 730 * 3600)
    assert costs.dollars(month.usd) == "$30.96"


def test_a_machine_of_the_free_tier_says_so_and_is_counted_all_the_same():
    assert "free all month in us-central1" in costs.estimate("vm", MICRO, 3600).note
    assert costs.dollars(usd("vm", MICRO, 3600)) == "$0.0150"
    assert costs.estimate("vm", MICRO | {"zone": "europe-west1-b"}, 3600).note == ""


def test_a_minute_is_charged_at_least_and_then_each_second():
    minute = usd("vm", MEDIUM, 60)
    assert usd("vm", MEDIUM, 1) == minute
    assert usd("vm", MEDIUM, 60.2) == usd("vm", MEDIUM, 61) > minute
    assert usd("cloud-run", JOB, 3) == usd("cloud-run", JOB, 60)
    assert usd("cloud-run", JOB, 60.01) == usd("cloud-run", JOB, "60.1")


@pytest.mark.parametrize(
    ("machine_type", "region", "hour"),
    [
        ("e2-micro", "us-central1", "0.0083764275"),
        ("e2-small", "us-west1", "0.016752855"),
        ("e2-standard-4", "us-central1", "0.13402284"),
        ("e2-medium", "europe-west1", "0.03685773"),
        ("e2-standard-4", "europe-west1", "0.14743092"),
        ("e2-standard-4", "europe-west9", "0.155464"),
        ("e2-highmem-4", "us-east1", "0.18079932"),
        ("e2-highmem-4", "northamerica-northeast1", "0.19903464"),
    ],
)
def test_hours_are_those_of_googles_catalogue(machine_type, region, hour):
    assert costs.prices().vm.hour(machine_type, region) == Decimal(hour)


# --- here, and what is not known ---


def test_this_machine_costs_nothing_and_that_is_said():
    cost = costs.estimate("local", {}, 9000)
    assert (cost.usd, cost.parts) == (0, ())
    assert "paid for anyway" in cost.note


@pytest.mark.parametrize(
    ("launcher", "resources", "lacking"),
    [
        ("vm", MICRO | {"machine_type": "z9-mega"}, "z9-mega"),
        ("vm", MICRO | {"zone": "mars-north1-a"}, "mars-north1"),
        ("cloud-run", JOB | {"region": "mars-north1"}, "mars-north1"),
        ("carrier-pigeon", {}, "carrier-pigeon"),
    ],
    ids=["type", "zone", "region", "launcher"],
)
def test_what_has_no_price_is_unknown_and_not_free(launcher, resources, lacking):
    cost = costs.estimate(launcher, resources, 60)
    assert (cost.usd, cost.stored) == (None, None)
    assert lacking in cost.note
    assert costs.dollars(cost.usd) == costs.euros(cost.usd) == "unknown"


def test_the_actual_cost_comes_from_the_clock_of_the_place():
    start = datetime(2026, 11, 1, 12, tzinfo=UTC)
    end = start + timedelta(seconds=2700)
    assert costs.actual("cloud-run", JOB, start, end).stored == Decimal("0.5724")
    assert costs.actual("cloud-run", JOB, start, None).usd is None
    assert costs.actual("vm", MICRO, None, None).usd is None
    assert costs.actual("vm", MICRO, end, start).usd is None, "ended before it began"
    assert costs.actual("local", {}, None, None).usd == 0


# --- what holds for any ---


@given(PLACES, SECONDS, SECONDS)
def test_longer_never_costs_less(place, one, other):
    less, more = sorted((one, other))
    assert usd(*place, less) <= usd(*place, more)


@given(st.integers(1, 7), st.integers(512, 16_384), SECONDS)
def test_more_of_anything_never_costs_less(cpu, memory_mb, seconds):
    job = {"cpu": cpu, "memory_mb": memory_mb, "region": "europe-west1"}
    cost = usd("cloud-run", job, seconds)
    assert cost < usd("cloud-run", job | {"cpu": cpu + 1}, seconds)
    assert cost < usd("cloud-run", job | {"memory_mb": memory_mb + 1}, seconds)
    assert cost < usd("cloud-run", job | {"region": "europe-west3"}, seconds)


@given(PLACES, st.integers(60, 10**6), st.integers(60, 10**6))
def test_two_times_cost_what_they_cost_together(place, one, other):
    apart = usd(*place, one) + usd(*place, other)
    assert abs(apart - usd(*place, one + other)) < Decimal("1e-18")


@given(PLACES, SECONDS)
def test_a_cost_is_the_sum_of_its_parts_and_is_stored_to_a_hundredth_of_a_cent(place, seconds):
    cost = costs.estimate(*place, seconds)
    assert cost.usd == sum(part.usd for part in cost.parts)
    assert abs(cost.stored - cost.usd) <= Decimal("0.00005")


# --- the table ---


def test_the_table_says_when_and_where_from():
    table = costs.prices()
    assert table.date.year >= 2026
    assert table.euro.date <= table.date
    assert all(
        part.source.startswith("https://cloud.google.com/")
        for part in (table.cloud_run, table.vm, table.storage)
    )
    assert costs.euros(Decimal("11.784")) == "€10.00"


def test_a_bucket():
    cost = costs.storage_cost(Decimal(50), Decimal(1), writes=10_000, reads=50_000)
    assert [part.usd for part in cost.parts] == [Decimal(1), Decimal("0.05"), Decimal("0.02")]


def edited(tmp_path: Path, old: str, new: str) -> str:
    text = costs.OWN_FILE.read_text()
    assert old in text
    file = tmp_path / "prices.toml"
    file.write_text(text.replace(old, new))
    return str(file)


def test_another_table_may_be_named(settings, tmp_path):
    settings.PRICES_FILE = edited(tmp_path, "vcpu_second = 0.000024\n", "vcpu_second = 1\n")
    assert usd("cloud-run", JOB | {"memory_mb": 0}, 100) == 800


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("gib_second = 0.0000025", "gib_second = 'dear'", "cloud_run.tiers[0].gib_second"),
        ("gib_second = 0.0000025", "gib_second = -1", "0 or more"),
        ("vcpu_hour = 0.02181159", "vcpu_hour = -1", "vcpu_hour: expected a price, 0 or more"),
        ("usd_per_eur = 1.1784", "usd_per_eur = 0", "usd_per_eur"),
        ("[storage]", "[stowage]", "stowage"),
        ("[storage]", "[storage", "(at line"),
    ],
    ids=["text", "negative", "negative-hour", "no-rate", "unknown-table", "not-toml"],
)
def test_a_table_that_can_not_be_read_is_refused_by_name(settings, tmp_path, old, new, said):
    settings.PRICES_FILE = edited(tmp_path, old, new)
    with pytest.raises(ImproperlyConfigured, match=r"PRICES_FILE .*prices\.toml") as error:
        costs.prices()
    assert said in str(error.value)


def test_a_table_that_is_not_there_is_refused(settings, tmp_path):
    settings.PRICES_FILE = str(tmp_path / "none.toml")
    with pytest.raises(ImproperlyConfigured, match="can't be read"):
        costs.prices()
    with pytest.raises(ImproperlyConfigured, match="can't be read"):
        apps.get_app_config("deployments").ready()
