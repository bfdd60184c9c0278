"""`manage.py report`, and what a page shows of reports of every age."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from engine.store import open_store
from tests import classifiers
from tests.bundles import METRICS, register, seed_registry
from tests.training.support import claim_run, make_dataset, make_run
from training import claims
from training.models import RunState, TrainingRun
from training.report import remedy, report_context
from training.report_file import report_html

pytestmark = pytest.mark.django_db(transaction=True)

ALERTS = dict.fromkeys(("model_block", "model_review"), METRICS["block"])
OLD = {"status": "succeeded", "metrics": METRICS | ALERTS, "peak_memory_mb": 830}
OLD_CURVES = {"risk": {"recall": [1.0], "precision": [0.1], "histogram": {}}}


@pytest.fixture(autouse=True)
def _registry(transactional_db, settings, tmp_path):
    seed_registry()
    settings.RUNS_DIR = str(tmp_path / "runs")
    settings.ARTIFACTS_DIR = str(tmp_path / "artifacts")


def succeeded(version: str = "1.0.0", report: dict[str, Any] = OLD) -> TrainingRun:
    run = make_run(version)
    TrainingRun.objects.filter(pk=run.pk).update(
        state=RunState.SUCCEEDED,
        started_at=timezone.now(),
        finished_at=timezone.now(),
        report=report,
        model_version=register(version),
    )
    run.refresh_from_db()
    return run


def failed(version: str = "1.2.0", error: str = "No <frauds>.") -> TrainingRun:
    run = claim_run(make_run(version))
    open_store(run.folder).write("log/000001.txt", b"load: 3 <rows>\n")
    claims.run_fail(run.pk, worker="one", stage="split", error=error, now=timezone.now())
    run.refresh_from_db()
    return run


def say(*arguments: str) -> str:
    out = StringIO()
    call_command("report", *arguments, stdout=out)
    return out.getvalue()


def refused(*arguments: str) -> str:
    with pytest.raises(CommandError) as raised:
        say(*arguments)
    return str(raised.value)


def test_a_run_is_found_by_its_id_the_beginning_of_it_or_its_version():
    run = succeeded()
    for name in (str(run.pk), str(run.pk)[:8], str(run.pk)[:11], "1.0.0", "v1.0.0"):
        assert f"Run {run.pk}: fraud v1.0.0, succeeded" in say(name)


def test_the_latest_run_of_a_version_is_taken():
    failed("1.0.0")
    assert "succeeded" in say(str(succeeded("1.0.0").version))


@pytest.mark.parametrize("name", ["0000", "2.0.0", "nonsense", "abc", "", "1.0.0.0"])
def test_an_unknown_run_is_refused_naming_those_that_there_are(name):
    run = succeeded()
    if str(run.pk).startswith("0000"):
        pytest.skip("the run was given this very id")
    message = refused(name)
    assert f"There is no training run “{name}”" in message
    assert f"{str(run.pk)[:8]} (fraud v1.0.0, succeeded)" in message


def test_a_beginning_that_several_share_is_refused():
    ids = [f"4f1c0e2a-5d2b-4b1e-9a55-0c6f6a3f5d1{digit}" for digit in (1, 2)]
    row = make_run("0.9.0")
    for row.pk, row.version in zip(ids, ("1.0.0", "1.1.0"), strict=True):
        row.save(force_insert=True)
    assert "More than one run begins with “4f1c”" in refused("4f1c")
    assert ids[1] in refused(ids[1][:-2])
    assert f"Run {ids[1]} is queued" in refused(ids[1])


def test_a_version_of_several_models_takes_the_model_before_it():
    fraud, model = succeeded(), classifiers.register_model()
    rows = make_dataset("rows", model=model)
    other = make_run("1.0.0", dataset=rows.name, model="sponsor")
    message = refused("1.0.0")
    assert "More than one model has a run of 1.0.0: say fraud/1.0.0 or sponsor/1.0.0." in message
    assert f"Run {fraud.pk}: fraud v1.0.0" in say("fraud/1.0.0")
    assert f"Run {other.pk} is queued" in refused("sponsor/v1.0.0")
    assert "There is no training run “churn/1.0.0”" in refused("churn/1.0.0")


def test_without_any_run_it_says_so():
    assert "Most recent runs: none yet." in refused("1.0.0")


def test_the_tables_on_the_terminal():
    succeeded()
    text = say("1.0.0")
    assert "Ranking, on 20,000 test transactions with 60 frauds" in text
    assert "0.6100" in text
    assert "83.0\N{NO-BREAK SPACE}%" in text


def test_the_json_is_that_of_the_program():
    succeeded()
    assert json.loads(say("1.0.0", "--json")) == OLD


def test_the_file_is_written_and_said(tmp_path: Path):
    run = succeeded()
    path = tmp_path / "report.html"
    assert f"The report of fraud v1.0.0 is in {path}." in say("1.0.0", "--html", str(path))
    assert path.read_text() == report_html(run)
    assert "on 20,000 transactions that it had not seen" in path.read_text().lower()


def test_a_file_that_can_not_be_written_is_named(tmp_path: Path):
    succeeded()
    message = refused("1.0.0", "--html", str(tmp_path / "nowhere" / "report.html"))
    assert "nowhere/report.html can't be written: No such file" in message


def test_a_run_that_goes_on_has_none_yet():
    run = make_run("1.4.0")
    for option in (["--html", "x.html"], ["--json"], []):
        message = refused("1.4.0", *option)
        assert "is queued" in message
        assert f"manage.py runs watch {run.pk}" in message


def test_a_failed_run_says_where_why_and_what_to_do(tmp_path: Path):
    run = failed()
    text = say("1.2.0")
    assert "Failed at split: No <frauds>." in text
    assert "Take a longer period" in text
    page = report_html(run)
    assert "Failed at split." in page
    assert "No &lt;frauds&gt;." in page
    assert "load: 3 &lt;rows&gt;" in page
    assert "<frauds>" not in page
    assert "<script>" not in page
    assert "has no report" in refused("1.2.0", "--json")


def test_a_lack_of_memory_has_its_own_remedy():
    words = remedy("supervised", "Out of memory (7,000 MB used at most).")
    for option in ("(--memory,", "--memory-limit ", "(--fit-rows)"):
        assert option in words
    assert remedy("policy", "Other.") != remedy("load", "Other.")


def test_a_report_of_the_first_version_is_shown_without_plots():
    context = report_context(OLD | {"curves": OLD_CURVES})
    assert context["plots"] == []
    assert context["embedded"] is None
    assert context["tiles"][0].figure.label == "average precision"
    assert report_context({}) == {}
    assert report_context({"status": "failed", "stage": "split"}) == {}


def test_whether_the_risk_is_a_probability_is_told():
    def facts(calibrated: bool) -> dict[str, str]:
        policy = {"calibrated": calibrated, "validation_frauds": 1_204 * calibrated}
        return dict(report_context(OLD | {"policy": policy})["data_facts"])

    assert facts(True)["Policy set by"] == "1,204 frauds of validation that no rule blocks"
    assert facts(True)["Risk"].startswith("calibrated")
    assert facts(False)["Policy set by"].startswith("0 frauds")
    assert facts(False)["Risk"].startswith("not calibrated")


@pytest.mark.parametrize("rounds", [[], [{"average_precision": 0.5}]])
def test_a_search_that_its_budget_ended_is_told(rounds):
    trials = [{"number": 0, "hyperparameters": {}, "rounds": rounds}]
    search = {"chosen": 0, "complete": False, "seconds": 90.04, "trials": trials}
    page = report_html(succeeded(report=OLD | {"search": search}))
    assert "The search was ended by its budget, after 1.5 minutes" in page
    whole = succeeded("1.1.0", OLD | {"search": search | {"complete": True}})
    assert "budget" not in report_html(whole)


def test_importances_times_and_configurations_are_told():
    trials = [
        {"number": 0, "hyperparameters": {"learning_rate": 0.1, "max_bins": 127}, "rounds": []},
        {
            "number": 1,
            "hyperparameters": {"learning_rate": 0.05, "max_bins": 127},
            "rounds": [{"average_precision": 0.5}, {"average_precision": 0.6}],
        },
        {
            "number": 2,
            "hyperparameters": {"learning_rate": 0.2, "max_bins": 127},
            "rounds": [{"average_precision": 0.7}],
        },
    ]
    context = report_context(
        OLD
        | {
            "importances": [
                {"name": "amount", "columns": 1, "drop": 0.2, "low": 0.1, "high": 0.4},
                {"name": "country", "columns": 7, "drop": -0.001, "low": -0.01, "high": 0.0},
            ],
            "search": {"chosen": 1, "complete": True, "seconds": 3.0, "trials": trials},
            "timings": {"load": 1.0, "features": 4.0},
            "peaks_mb": {"load": 100},
        }
    )
    amount, country = context["importances"]
    assert (amount.length, amount.low, amount.high) == (50.0, 25.0, 100.0)
    assert (country.name, country.length) == ("country (7 columns)", 0.0)
    assert context["search"].header == ("", "learning rate", "rounds", "average precision")
    rows = [[cell.value for cell in row] for row in context["search"].rows]
    assert rows == [["1, kept", "0.05", "2", "0.6000"], ["2", "0.2", "1", "0.7000"]]
    assert context["search_cut"] == ""
    stages = [(stage, bar.length, memory) for stage, bar, memory in context["stages"]]
    assert stages[0][:2] == ("load", 25.0)
    assert "100" in stages[0][2]
    assert stages[1] == ("features", 100.0, "–")
