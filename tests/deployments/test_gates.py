"""What the figures say about a promotion, and that it can be made against them."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from deployments import selectors, services
from deployments.gates import Gate, Verdict, gate
from deployments.management.commands import promote
from deployments.models import PromotionEvent
from tests import bundles


@dataclass
class Version:
    version: str
    metrics: dict[str, Any] = field(default_factory=dict)
    deployable: bool = True
    thresholds: dict[str, float] = field(default_factory=lambda: {"review": 0.2, "block": 0.8})


def compared(
    difference: float = 0.05,
    interval: tuple[float, float] | None = (0.02, 0.08),
    *,
    champion: str = "1.0.0",
    fitted_until: str | None = "2026-01-31T23:59:59Z",
    same_dataset: bool | None = True,
    same_scores: bool = False,
) -> dict[str, Any]:
    """The metrics of a version whose run compared it with the champion."""
    return bundles.METRICS | {
        "pr_auc": 0.6 + difference,
        "test_from": "2026-02-08T00:00:00Z",
        "champion": {
            "version": champion,
            "fitted_until": fitted_until,
            "same_dataset": same_dataset,
            "same_scores": same_scores,
        },
        "baselines": {"champion": {"pr_auc": 0.6, "roc_auc": 0.9}},
        "differences": {
            "champion": {
                "pr_auc": {"difference": difference, "interval": interval and list(interval)}
            }
        },
    }


def found(metrics: dict[str, Any], champion: Version | None = None, **changes: Any) -> Gate:
    return gate(Version("1.1.0", metrics, **changes), champion or Version("1.0.0"))


def test_better_beyond_the_interval():
    better = found(compared())
    assert (better.verdict, better.open) == (Verdict.BETTER, True)
    assert better.title == "Better than the champion v1.0.0"
    assert better.reason == (
        "On the same 20,000 transactions (60 frauds) its average precision is 0.650 and that of "
        "v1.0.0 0.600: +0.050, and with 95 % confidence between +0.020 and +0.080."
    )


def test_worse_beyond_the_interval():
    worse = found(compared(-0.05, (-0.08, -0.02)))
    assert (worse.verdict, worse.open) == (Verdict.WORSE, False)
    assert "between -0.080 and -0.020" in worse.reason


@pytest.mark.parametrize("interval", [(-0.01, 0.08), (0.0, 0.08), (-0.08, 0.0)])
def test_an_interval_with_zero_in_it_is_too_close_to_call(interval):
    close = found(compared(0.03, interval))
    assert (close.verdict, close.open) == (Verdict.TOO_CLOSE, False)
    assert "may be chance" in close.reason


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        (bundles.METRICS, "did not score its test part with a champion"),
        ({}, "did not score its test part with a champion"),
        (
            {"champion": None, "champion_error": "The champion v1.0.0 reads other inputs."},
            "The champion v1.0.0 reads other inputs.",
        ),
        (compared(champion="0.9.0"), "the champion was v0.9.0 when it was trained, and v1.0.0"),
        (
            compared(fitted_until="2026-02-08T00:00:00Z"),
            "V1.0.0 was fitted on transactions until 2026-02-08 00:00 UTC, and the test part of "
            "v1.1.0 begins at 2026-02-08 00:00 UTC: it had seen part of the answers",
        ),
        (
            compared(fitted_until="2026-02-09T00:00:00Z", same_dataset=False),
            "V1.0.0 was fitted on another data set, with transactions until 2026-02-09 00:00 UTC, "
            "and the test part of v1.1.0 begins at 2026-02-08 00:00 UTC: it may have seen part",
        ),
        (compared(fitted_until=None), "does not say which transactions it was fitted on"),
        (compared(interval=None), "too few frauds for an interval"),
    ],
)
def test_what_is_not_comparable_says_why(metrics, reason):
    blind = found(metrics)
    assert (blind.verdict, blind.open) == (Verdict.NOT_COMPARABLE, False)
    assert reason.lower() in blind.reason.lower()


def test_the_same_model_is_said_to_be_the_same():
    same = found(compared(0.0, (0.0, 0.0), same_scores=True))
    assert (same.verdict, same.open) == (Verdict.SAME, False)
    assert same.title == "It is the same model as v1.0.0"
    assert "the same 20,000 transactions the same risk" in same.reason


@pytest.mark.parametrize(
    ("scores", "thresholds"), [(False, {}), (True, {"review": 0.1, "block": 0.8})]
)
def test_a_model_of_the_same_worth_or_with_other_thresholds_is_another(scores, thresholds):
    metrics = compared(0.0, (0.0, 0.0), same_scores=scores)
    changes = {"thresholds": thresholds} if thresholds else {}
    assert found(metrics, **changes).verdict is Verdict.TOO_CLOSE


def test_a_sample_is_never_comparable():
    sample = found(compared(), deployable=False)
    assert sample.verdict is Verdict.NOT_COMPARABLE
    assert "trained on a sample" in sample.reason


def test_the_first_version_meets_nothing():
    assert gate(Version("1.0.0"), None).verdict is Verdict.FIRST
    assert gate(Version("1.0.0"), None).open


def test_the_last_row_before_the_test_part_may_be_fitted_on():
    assert found(compared(fitted_until="2026-02-07T23:59:59Z")).verdict is Verdict.BETTER


def test_a_champion_of_an_earlier_data_set_is_compared():
    assert found(compared(same_dataset=False)).verdict is Verdict.BETTER


def test_an_older_version_is_compared_by_the_run_of_the_newer_one():
    newer = Version("1.1.0", compared())
    older = gate(Version("1.0.0"), newer)
    assert older.verdict is Verdict.WORSE
    assert "is 0.600 and that of v1.1.0 0.650: -0.050" in older.reason
    assert "between -0.080 and -0.020" in older.reason


# --- where a version is promoted ---


@pytest.fixture
def champion(fraud):
    version = bundles.register("1.0.0")
    services.promote(model=fraud, version="1.0.0", actor="ana", reason="the first")
    return version


def address(version: Any, view: str = "promote") -> str:
    return reverse(f"admin:deployments_modelversion_{view}", args=[version.pk])


def serves() -> str:
    return selectors.live_pointer("fraud").version.version


@pytest.mark.parametrize(
    ("metrics", "title"),
    [
        (compared(-0.05, (-0.08, -0.02)), "Worse than the champion"),
        (compared(0.03, (-0.01, 0.08)), "Too close to the champion v1.0.0 to call"),
        (bundles.METRICS, "Not comparable with the champion"),
    ],
)
def test_the_page_asks_before_a_promotion_against_the_figures(
    admin_client, champion, metrics, title
):
    version = bundles.register("1.1.0", metrics=metrics)
    assert title in admin_client.get(address(version)).content.decode()
    assert title in admin_client.get(address(version, "change")).content.decode()
    asked = {"reason": "fresher data", "seen_champion": "1.0.0"}
    refused = admin_client.post(address(version), asked).content.decode()
    assert "Confirm that you mean it" in refused
    assert serves() == "1.0.0"
    assert admin_client.post(address(version), asked | {"anyway": "on"}).status_code == 302
    assert serves() == "1.1.0"
    assert PromotionEvent.objects.first().reason == "fresher data"


def test_the_page_asks_nothing_when_the_figures_speak_for_it(admin_client, champion):
    version = bundles.register("1.1.0", metrics=compared())
    page = admin_client.get(address(version)).content.decode()
    assert "Better than the champion v1.0.0" in page
    assert 'name="anyway"' not in page
    # The champion's figures on the same transactions, not those of its own run.
    assert "0.600" in page
    assert "0.610" not in page
    asked = {"reason": "better", "seen_champion": "1.0.0"}
    assert admin_client.post(address(version), asked).status_code == 302
    assert serves() == "1.1.0"


def test_the_champion_is_not_compared_with_itself(admin_client, champion):
    page = admin_client.get(address(champion, "change")).content.decode()
    assert "It is the champion." in page


def test_the_command_says_it_and_asks(champion, monkeypatch, capsys):
    bundles.register("1.1.0", metrics=compared(-0.05, (-0.08, -0.02)))
    with pytest.raises(CommandError, match="Give --yes"):
        call_command("promote", "fraud", "1.1.0")
    assert "Worse than the champion v1.0.0. On the same" in capsys.readouterr().out
    monkeypatch.setattr(promote.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    with pytest.raises(CommandError, match="Nothing was promoted"):
        call_command("promote", "fraud", "1.1.0")
    assert serves() == "1.0.0"
    monkeypatch.setattr("builtins.input", lambda _: "y")
    call_command("promote", "fraud", "1.1.0")
    assert serves() == "1.1.0"
    call_command("promote", "fraud", "1.0.0")  # better, by the same run
    assert "Better than the champion v1.1.0" in capsys.readouterr().out
    bundles.register("1.2.0")
    call_command("promote", "fraud", "1.2.0", "--yes")
    assert serves() == "1.2.0"
