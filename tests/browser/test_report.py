"""The page of a training run in a real browser: finished, failed and running."""

import os
from pathlib import Path

import numpy as np
import pytest
from django.utils import timezone
from playwright.sync_api import Locator, Page, expect
from sklearn.metrics import average_precision_score

from engine.store import open_store
from tests import bundles
from tests.browser.plots import drawn, read_y
from tests.training.support import claim_run, make_run
from tests.training.trained import Trained
from training import claims
from training.models import RunState, TrainingRun
from training.report_file import report_html

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def runs(fraud, settings, tmp_path: Path) -> None:
    settings.RUNS_DIR = str(tmp_path / "runs")


@pytest.fixture
def finished(runs, trained: Trained) -> TrainingRun:
    run = make_run("1.1.0")
    now = timezone.now()
    version = bundles.register("1.1.0", metrics=trained.report["metrics"], training_run_id=run.pk)
    TrainingRun.objects.filter(pk=run.pk).update(
        state=RunState.SUCCEEDED,
        started_at=now,
        finished_at=now,
        report=trained.report,
        model_version=version,
        stage="done",
        fraction=1.0,
    )
    open_store(run.folder).write("log/000001.txt", trained.log)
    run.refresh_from_db()
    return run


def address(run: TrainingRun) -> str:
    return f"/admin/training/trainingrun/{run.pk}/change/"


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def figure(page: Page, name: str) -> Locator:
    return page.locator(f'figure[data-plot="{name}"]')


def test_a_finished_run_is_drawn_from_its_predictions(strict: Page, finished, trained):
    page, table = strict, trained.predictions
    page.goto(address(finished))
    expect(page.locator("svg.plot-svg")).to_have_count(7)

    labels, risk = table["label"].to_numpy(), table["risk_score"].to_numpy()
    expect(page.locator(".report-tile").first).to_contain_text(
        f"{average_precision_score(labels, risk):.4f}"
    )
    line = drawn(figure(page, "precision-recall"), "The whole decision")
    curve = trained.report["curves"]["scores"]["risk"]
    expected = np.array(
        [
            [(risk[labels] >= threshold).mean(), labels[risk >= threshold].mean()]
            for threshold in curve["threshold"]
        ]
    )
    assert line.shape == expected.shape
    assert np.abs(line - expected).max() < 1e-3

    roc = drawn(figure(page, "roc"), "Supervised model")[1:-1]
    score = table["supervised_score"].to_numpy()
    thresholds = trained.report["curves"]["scores"]["supervised"]["threshold"]
    expected = np.array(
        [[(score[~labels] >= each).mean(), (score[labels] >= each).mean()] for each in thresholds]
    )
    assert np.abs(roc - expected).max() < 1e-3
    picture(page, "run-finished")


def test_values_are_read_with_the_pointer_the_keys_and_the_table(strict: Page, finished, trained):
    page = strict
    page.goto(address(finished))
    plot = figure(page, "weeks")
    week = trained.report["curves"]["weeks"][0]
    share = 100 * week["review"]["recall"]
    recall = f"{float(f'{share:.3g}'):g}\N{NO-BREAK SPACE}%"
    plot.locator("svg.plot-svg").focus()
    page.keyboard.press("ArrowRight")
    expect(plot.locator(".plot-tip")).to_contain_text(f"Week from Monday: {week['week']}")
    expect(plot.locator(".plot-tip")).to_contain_text(f"Reviewed or blocked: {recall}")
    page.keyboard.press("Escape")
    expect(plot.locator(".plot-tip")).to_be_hidden()

    plot.locator("circle").first.hover()
    expect(plot.locator(".plot-tip")).to_contain_text(f"{week['frauds']} frauds")

    plot.get_by_text("The numbers").click()
    rows = plot.locator(".plot-numbers tbody tr")
    expect(rows).to_have_count(2 * len(trained.report["curves"]["weeks"]))
    expect(rows.first).to_contain_text(recall)

    pr = figure(page, "precision-recall")
    pr.get_by_role("button", name="Unsupervised model").click()
    expect(pr.locator('g[data-series="Unsupervised model"]')).to_have_count(0)
    expect(pr.locator('g[data-series="Supervised model"]')).to_have_count(1)


def test_costs_and_scores_are_chosen_on_the_page(strict: Page, finished, trained):
    page, table = strict, trained.predictions
    page.goto(address(finished))
    plot = figure(page, "cost")
    expect(page.get_by_label("One review costs")).to_have_value("1")
    page.get_by_label("One review costs").fill("2.5")
    line = drawn(plot, "Reviewing all from here on")
    cost = trained.report["curves"]["cost"]
    risk, labels = table["risk_score"].to_numpy(), table["label"].to_numpy()
    frauds = table["amount"].to_numpy() * labels
    expected = [
        1000 * (frauds[risk < each].sum() + 2.5 * (risk >= each).sum()) / len(risk)
        for each in cost["threshold"]
    ]
    assert np.abs(line[:, 1] - expected).max() < 1e-3 * max(expected)
    level = trained.report["metrics"]["approve_all_cost_per_1000"]
    assert level == pytest.approx(1000 * frauds.sum() / len(risk))
    mark, axis = plot.locator(".plot-mark").first.get_attribute("d"), plot.locator(".plot-tick")
    assert read_y(axis, float(mark.split(",")[1].split("L")[0])) == pytest.approx(level, rel=1e-3)

    plot = figure(page, "distribution")
    plot.get_by_role("combobox", name="Score").select_option("Supervised model")
    expect(plot.locator(".plot-label").first).to_have_text("Supervised model: score")
    for name in ("Legitimate", "Fraud"):
        plot.get_by_role("button", name=name).click()
    expect(plot.locator(".plot-series")).to_have_count(0)
    plot.locator("svg.plot-svg").hover()
    plot.locator("svg.plot-svg").press("ArrowRight")
    expect(plot.locator(".plot-tip")).to_be_hidden()
    plot.get_by_role("button", name="Fraud").click()
    expect(plot.locator(".plot-series")).to_have_count(1)


def test_the_page_fits_a_telephone_and_the_dark(strict: Page, finished):
    page = strict
    page.emulate_media(color_scheme="dark")
    page.goto(address(finished))
    expect(page.locator("svg.plot-svg")).to_have_count(7)
    picture(page, "run-finished-dark")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function(
        "() => [...document.querySelectorAll('svg.plot-svg')]"
        ".every(plot => plot.getBoundingClientRect().right <= innerWidth)"
    )
    picture(page, "run-finished-narrow-dark")
    page.emulate_media(color_scheme="light")
    picture(page, "run-finished-narrow")


def test_a_failed_run_says_where_why_and_what_to_do(strict: Page, runs):
    run = claim_run(make_run("1.2.0"))
    open_store(run.folder).write("log/000001.txt", b"load: 300 rows\nfailed at stage split\n")
    claims.run_fail(
        run.pk,
        worker="one",
        stage="split",
        error="The test part has 0 frauds of the 5 needed.",
        report={"status": "failed", "stage": "split", "error": "…", "peak_memory_mb": 300},
        now=timezone.now(),
    )
    strict.goto(address(run))
    expect(strict.get_by_text("Failed at split.")).to_be_visible()
    expect(strict.locator("p.run-error")).to_contain_text("The test part has 0 frauds")
    expect(strict.get_by_text("Take a longer period, other periods")).to_be_visible()
    expect(strict.locator("pre.run-log")).to_contain_text("failed at stage split")
    expect(strict.get_by_role("button", name="Start again")).to_be_visible()
    picture(strict, "run-failed")


def test_a_running_run_shows_its_progress_live_and_then_its_report(
    strict: Page, runs, trained: Trained
):
    run = claim_run(make_run("1.3.0"))
    store = open_store(run.folder)

    def go_on(stage: str, fraction: float, line: bytes) -> None:
        progress = {"stage": stage, "fraction": fraction, "message": f"{fraction:.0%} of it"}
        claims.run_heartbeat(run.pk, worker="one", progress=progress, now=timezone.now())
        store.write(f"log/{int(fraction * 100):06}.txt", line)

    go_on("features", 0.1, b"features: started\n")
    strict.goto(address(run))
    expect(strict.locator(".run-head progress")).to_have_attribute("value", "0.1000")
    expect(strict.locator("pre.run-log")).to_contain_text("features: started")
    go_on("supervised", 0.4, b"supervised: started\n")
    expect(strict.locator(".run-head strong")).to_have_text("supervised")
    expect(strict.locator(".run-head progress")).to_have_attribute("value", "0.4000")
    expect(strict.locator("pre.run-log")).to_contain_text("supervised: started")
    picture(strict, "run-running")

    TrainingRun.objects.filter(pk=run.pk).update(
        state=RunState.SUCCEEDED,
        report=trained.report,
        model_version=bundles.register("1.3.0"),
        finished_at=timezone.now(),
    )
    expect(strict.locator("svg.plot-svg")).to_have_count(7)


def test_the_report_as_one_file_needs_no_network(browser, finished, tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text(report_html(finished))
    context = browser.new_context(offline=True, viewport={"width": 1360, "height": 900})
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    expect(page.locator("svg.plot-svg")).to_have_count(7)
    expect(page.get_by_role("heading", name="fraud v1.1.0")).to_be_visible()
    expect(page.locator("pre.run-log")).to_contain_text("evaluate: done")
    picture(page, "report-file")
    assert asked == [path.as_uri()]
    assert said == []
    context.close()
