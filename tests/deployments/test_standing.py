"""What stands all day, by the month, against sums made by hand."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from deployments import costs
from deployments.standing import Size, standing, table


def months(size: Size) -> list[Decimal | None]:
    return [row.month.usd for row in standing(size)]


@pytest.mark.parametrize(
    ("tier", "usd"),
    [
        # 730 hours of 1 × $0.0413 + 3.75 × $0.007, and 10 GB at $0.17.
        ("db-custom-1-3840", Decimal("51.01150")),
        ("db-custom-2-7680", Decimal("100.32300")),
        ("db-g1-small", Decimal("27.250")),
        ("db-f1-micro", Decimal("9.3650")),
        ("db-perf-optimized-N-2", None),
    ],
)
def test_a_database_costs_its_tier_and_its_disk(tier: str, usd: Decimal | None) -> None:
    assert months(Size(tier=tier))[0] == usd


def test_the_broker_and_the_workers() -> None:
    # 730 × $0.049; 2,628,000 s of 1 vCPU at $0.000011244 and of 2 GiB at $0.000001235.
    assert months(Size())[1:] == [Decimal("35.770"), Decimal("36.040392")]


def test_a_table_of_prices_without_them_says_not_known(settings: Any, tmp_path: Path) -> None:
    """A file of before, which had none of them, stays one."""
    text = costs.OWN_FILE.read_text()
    begin, end = text.index("[always_on]"), text.index("[vm]\n")
    old = tmp_path / "prices.toml"
    old.write_text(text[:begin] + text[end:])
    settings.PRICES_FILE = str(old)
    assert months(Size()) == [None, None, None]
    shown = table(Size(), "europe-west1")
    assert shown.count("not known a month") == 3
    assert "These are prices of" not in shown
