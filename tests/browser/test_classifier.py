"""The pages of a classifier in a real browser: from its definition to what it answers."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from django.conf import settings
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect
from sklearn.metrics import f1_score

from deployments import selectors, services
from deployments.models import ModelVersion, RegisteredModel
from engine.bundle import publish
from engine.store import LocalStore, open_store
from scoring.models import PredictionRecord
from tests.browser.plots import read_axes
from tests.engine.classifiers import CHURN
from tests.training.classifier.trained import FIRST, SECOND, Trained, train_twice
from training.models import Dataset, RunState, TrainingRun
from training.pipeline.classifier.definitions import shipped_definition
from training.report_file import report_html

pytestmark = pytest.mark.django_db(transaction=True)
MODELS = "/admin/deployments/registeredmodel/"
VERSIONS = "/admin/deployments/modelversion/"
SPONSOR = shipped_definition("sponsor")
REQUEST = {
    "match_minute": 67,
    "score_diff": 1,
    "temperature": 18.5,
    "crowd_density": 0.9,
    "zone": "North",
    "event": "Goal",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    return train_twice(tmp_path_factory.mktemp("sponsor"))


@pytest.fixture
def runs(fraud, trained: Trained, settings, tmp_path: Path) -> dict[str, TrainingRun]:
    """The runs that made the two versions, as a worker leaves them; nothing is promoted."""
    settings.RUNS_DIR = str(tmp_path / "runs")
    model = services.model_register(source=SPONSOR, by="ana")
    data = trained.data
    dataset = Dataset.objects.create(
        name="sponsor-4000-1",
        model=model,
        location="sponsor-4000-1",
        preset="",
        fingerprint=data.fingerprint,
        rows=data.rows,
        summary={"class_counts": data.class_counts, "columns": list(data.columns)},
    )
    return {version: finished(model, dataset, trained, version) for version in (FIRST, SECOND)}


def finished(
    model: RegisteredModel, dataset: Dataset, trained: Trained, number: str
) -> TrainingRun:
    report, folder = trained.reports[number], trained.folders[number]
    run = TrainingRun.objects.create(
        model=model, version=number, dataset=dataset, state=RunState.SUCCEEDED, report=report,
        started_at=timezone.now(), finished_at=timezone.now(), stage="done", fraction=1.0,
    )  # fmt: skip
    run.model_version = version_of(model, number, folder, report["manifest_sha256"], run)
    run.save()
    return run


def version_of(
    model: RegisteredModel, number: str, folder: Path, digest: str, run: TrainingRun
) -> ModelVersion:
    """The bundle of a run, published and registered."""
    location = f"{model.name}/v{number}"
    publish(LocalStore(folder), "bundle", open_store(settings.ARTIFACTS_DIR), location, digest)
    return services.version_register(
        model=model,
        version=number,
        location=location,
        manifest_sha256=digest,
        metrics=run.report["metrics"],
        deployable=True,
        training_run_id=run.pk,
        rule_set=None,
        created_by="ana",
    )


def address(run: TrainingRun) -> str:
    return f"/admin/training/trainingrun/{run.pk}/change/"


def picture(page: Page, name: str) -> None:
    """Keep screenshots for people, light and dark, when SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            path = Path(folder) / f"{name}-{scheme}.png"
            page.screenshot(path=path, full_page=True, animations="disabled")


def cells(page: Page, region: str, row: str) -> list[str]:
    """The texts of the row that `row` begins, in the table of a region."""
    table = page.get_by_role("region", name=region, exact=True)
    line = table.locator("tbody tr").filter(has=page.get_by_role("rowheader", name=row, exact=True))
    expect(line).to_have_count(1)
    found = line.locator("th, td").all_inner_texts()
    return [text.replace("\N{NO-BREAK SPACE}", " ") for text in found]


def shown(value: float) -> str:
    """A share as the page has it."""
    return f"{100 * value:.1f} %"


def test_a_classifier_is_registered_and_its_definition_changed(strict: Page):
    page = strict
    page.goto(MODELS)
    expect(page.get_by_role("row", name="fraud")).to_contain_text("Fraud scoring")
    page.get_by_role("link", name="Register a classifier").click()

    page.get_by_label("Definition").fill(SPONSOR.replace("minimum = -20", 'minimum = "cold"'))
    page.get_by_role("button", name="Preview").click()
    expect(page.locator(".errorlist")).to_contain_text("inputs.temperature.minimum: ")
    page.get_by_label("Definition").fill(SPONSOR.replace("minimum = -20", "minimum = 60"))
    page.get_by_role("button", name="Register").click()
    expect(page.locator(".errorlist")).to_contain_text("inputs.temperature: ")
    picture(page, "model-fault")
    page.get_by_label("Definition").fill(SPONSOR.replace('name = "sponsor"', 'name = "fraud"', 1))
    page.get_by_role("button", name="Register").click()
    expect(page.locator(".errorlist")).to_contain_text("“fraud” is a model of another kind")
    assert not RegisteredModel.objects.filter(kind="classifier").exists()

    file = {"name": "sponsor.toml", "mimeType": "application/toml", "buffer": SPONSOR.encode()}
    page.get_by_label("TOML file").set_input_files(file)
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text("nothing is registered yet")).to_be_visible()
    assert page.get_by_label("Definition").input_value().strip() == SPONSOR.strip()
    assert cells(page, "Inputs", "temperature") == [
        *("temperature", "number", "-20 to 50", "°C", "required", "In the stadium")
    ]
    picture(page, "model-preview")
    assert not RegisteredModel.objects.filter(kind="classifier").exists()
    page.get_by_role("button", name="Register").click()

    expect(page.get_by_text("Sponsor is registered.")).to_be_visible()
    model = RegisteredModel.objects.get(name="sponsor")
    assert (model.kind, model.definition, model.defined_by) == ("classifier", SPONSOR, "ana")
    assert cells(page, "Inputs", "zone")[1:3] == ["category", "VIP North South East West"]
    assert cells(page, "Inputs", "event")[4] == "None"
    assert cells(page, "Classes", "Stridewell")[:2] == ["Stridewell", "Sportswear"]
    expect(page.get_by_text("No version serves yet: train one")).to_be_visible()
    picture(page, "model-new")

    page.get_by_role("link", name="Change the definition…").click()
    page.get_by_label("Definition").fill(CHURN)
    page.get_by_role("button", name="Preview").click()
    expect(page.locator(".errorlist")).to_contain_text("found “churn”, expected “sponsor”")
    page.get_by_label("Definition").fill(SPONSOR.replace('"Sportswear"', '"Sports & clothes"'))
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("pre .added")).to_contain_text('category = "Sports & clothes"')
    picture(page, "model-change")
    page.get_by_role("button", name="Change the definition").click()
    assert cells(page, "Classes", "Stridewell")[:2] == ["Stridewell", "Sports & clothes"]
    page.goto(MODELS)
    expect(page.get_by_role("row", name="sponsor")).to_contain_text("Classifier")
    picture(page, "models")


def test_the_report_is_drawn_from_the_predictions(strict: Page, runs, trained: Trained):
    page = strict
    page.goto(address(runs[SECOND]))
    expect(page.locator("svg.plot-svg")).to_have_count(1)
    table = pd.read_parquet(trained.folders[SECOND] / "predictions.parquet")
    before = pd.read_parquet(trained.folders[FIRST] / "predictions.parquet")
    right = table["label"] == table["prediction"]
    labels = list(trained.data.class_counts)

    expect(page.locator(".report-tile").first).to_contain_text(f"{100 * right.mean():.1f}")
    assert cells(page, "Accuracies", "This version")[1] == shown(right.mean())
    champion = (before["label"] == before["prediction"]).mean()
    assert cells(page, "Accuracies", f"Champion v{FIRST}")[1] == shown(champion)
    most = table["label"].value_counts()[most_frequent(trained)] / len(table)
    assert cells(page, "Accuracies", "Always the most frequent class")[1] == shown(most)
    told = page.locator(".report-sentence").all_inner_texts()
    assert f"Of {len(table):,} rows that it had not seen" in told[0]

    confusion = pd.crosstab(table["label"], table["prediction"])
    confusion = confusion.reindex(index=labels, columns=labels, fill_value=0)
    page.get_by_label("rows", exact=True).check()
    for label in labels:
        wanted = [f"{rows:,}" for rows in (confusion.loc[label].sum(), *confusion.loc[label])]
        assert cells(page, "Confusion matrix", label) == [label, *wanted]
    page.get_by_label("% of the actual class").check()
    first = confusion.loc[labels[0]] / confusion.loc[labels[0]].sum()
    assert cells(page, "Confusion matrix", labels[0])[2] == f"{100 * first[labels[0]]:.0f}"

    named = table[table["prediction"] == labels[0]]
    assert cells(page, "Classes", labels[0])[:4] == [
        labels[0],
        f"{(table['label'] == labels[0]).sum():,}",
        shown((named["label"] == labels[0]).mean()),
        shown(first[labels[0]]),
    ]
    f1 = [f1_score(each["label"], each["prediction"], average="macro") for each in (table, before)]
    beside = cells(page, f"Beside the champion v{FIRST}, on the same rows", "Macro F1")
    assert beside[1:] == [f"{f1[0]:.4f}", f"{f1[1]:.4f}", f"{f1[0] - f1[1]:+.4f}"]

    bins = (table["confidence"] * 10).astype(int).clip(upper=9)
    wanted = np.column_stack([table["confidence"].groupby(bins).mean(), right.groupby(bins).mean()])
    assert np.abs(points(page) - wanted).max() < 2e-3
    picture(page, "classifier-report")


def most_frequent(trained: Trained) -> str:
    """The class with the most rows in the training part."""
    counts = trained.reports[SECOND]["data"]["parts"]["train"]["classes"]
    return max(counts, key=lambda label: counts[label])


def points(page: Page) -> np.ndarray:
    """(points, 2) what the reliability shows, read off the picture by its own axes."""
    plot = page.locator('figure[data-plot="classifier-reliability"]')
    places = plot.locator("circle").evaluate_all(
        "circles => circles.map(c => [Number(c.getAttribute('cx')), Number(c.getAttribute('cy'))])"
    )
    axes = read_axes(plot.locator(".plot-tick"))
    values = zip(axes, np.array(places).T, strict=True)
    return np.column_stack([np.polyval(axis, place) for axis, place in values])


def test_the_report_as_one_file_needs_no_network(browser: Browser, runs, tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text(report_html(runs[SECOND]))
    context = browser.new_context(offline=True, viewport={"width": 390, "height": 844})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    expect(page.locator("svg.plot-svg")).to_have_count(1)
    expect(page.get_by_role("heading", name="sponsor v1.1.0")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    picture(page, "classifier-report-file-narrow")
    page.set_viewport_size({"width": 1360, "height": 900})
    picture(page, "classifier-report-file")
    assert said == []
    context.close()


def test_a_version_is_compared_promoted_and_answers(strict: Page, runs):
    page = strict
    promote(page, FIRST, "The first one")
    expect(page.get_by_text(f"Sponsor is served by v{FIRST}.", exact=True)).to_be_visible()
    page.get_by_role("link", name=f"sponsor v{SECOND}").click()
    found = runs[SECOND].report["metrics"]
    expect(
        page.get_by_role("row", name="Accuracy Share of the rows whose class it tells")
    ).to_contain_text(f"{100 * found['accuracy']:.2f}")
    for word in ("Thresholds", "Rules"):
        expect(page.get_by_text(f"{word}:", exact=True)).to_have_count(0)
    picture(page, "classifier-version")
    page.get_by_role("link", name="Promote…").click()
    expect(page.get_by_text(f"Too close to the champion v{FIRST} to call")).to_be_visible()
    expect(page.get_by_text("REVIEW")).to_have_count(0)
    picture(page, "classifier-promote")
    page.get_by_label("Reason").fill("More trees")
    page.get_by_label("Promote it although").check()
    page.get_by_role("button", name="Promote").click()
    expect(page.get_by_role("row", name=f"sponsor v{SECOND}")).to_contain_text("champion")
    assert selectors.live_pointer("sponsor").version.version == SECOND
    picture(page, "classifier-versions")

    _, key = services.api_key_create(name="tablet", scopes=["score"], created_by="ana")
    answer = page.context.request.post(
        "/models/sponsor/predict",
        data=REQUEST,
        headers={"Authorization": f"Api-Key {key}", "Idempotency-Key": "match-7-67"},
    )
    told = answer.json()
    assert (answer.status, told["model_version"]) == (200, f"v{SECOND}")

    page.goto(MODELS)
    page.get_by_role("link", name="sponsor", exact=True).click()
    expect(page.get_by_text("Served by")).to_contain_text(f"v{SECOND}")
    picture(page, "classifier-model")
    page.get_by_role("link", name="Predictions", exact=True).last.click()
    row = page.locator("#result_list tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text(told["recommended_sponsor"])
    expect(row).to_contain_text("match-7-67")
    picture(page, "predictions")
    row.get_by_role("link").first.click()
    expect(page.get_by_role("row", name="temperature")).to_contain_text("18.5")
    expect(page.get_by_role("row", name="campaign_message")).to_contain_text(
        told["campaign_message"]
    )
    picture(page, "prediction")
    assert PredictionRecord.objects.get().request_id == "match-7-67"


def promote(page: Page, version: str, reason: str) -> None:
    page.goto(VERSIONS)
    page.get_by_role("link", name=f"sponsor v{version}").click()
    page.get_by_role("link", name="Promote…").click()
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name="Promote").click()


def test_lists_and_a_failed_run_tell_what_a_classifier_has(strict: Page, runs, trained: Trained):
    page = strict
    page.goto("/admin/training/dataset/")
    expect(page.get_by_role("row", name="sponsor-4000-1")).to_contain_text("4,000")
    picture(page, "datasets")
    page.get_by_role("link", name="sponsor-4000-1").click()
    counts = trained.data.class_counts
    label = next(iter(counts))
    assert cells(page, "Classes", label)[1] == f"{counts[label]:,}"
    expect(page.get_by_text("Fraud rate")).to_have_count(0)
    picture(page, "dataset")
    page.goto("/admin/training/trainingrun/")
    row = page.get_by_role("row", name=f"sponsor v{SECOND}")
    expect(row).to_contain_text(shown(runs[SECOND].report["metrics"]["accuracy"]).split(" ")[0])
    picture(page, "runs")

    run = runs[FIRST]
    TrainingRun.objects.filter(pk=run.pk).update(
        state=RunState.FAILED,
        stage="split",
        error="There are 12 rows to train on and 3 to test on.",
        report={"status": "failed", "stage": "split", "error": "…", "peak_memory_mb": 130},
        model_version=None,
    )
    page.goto(address(run))
    expect(page.get_by_text("Failed at split.")).to_be_visible()
    expect(page.get_by_text("Import more rows, or")).to_be_visible()
    expect(page.get_by_role("button", name="Start again")).to_be_visible()
    picture(page, "classifier-run-failed")
