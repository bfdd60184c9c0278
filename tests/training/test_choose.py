"""What a run is expected to take, and where “auto” sends it."""

from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RunRefused
from tests import classifiers
from tests.bundles import register, seed_registry
from tests.engine.classifiers import CHURN
from tests.training.support import make_dataset, make_run
from training.launchers.choose import REASON_LENGTH, choose
from training.launchers.estimate import (
    Estimate,
    Machine,
    estimate_rows,
    machine_of,
    run_estimate,
    this_machine,
)
from training.launchers.resources import (
    CloudRunResources,
    LocalResources,
    VmResources,
    resources_for,
)
from training.models import RunState, TrainingRun
from training.pipeline.spec import ClassifierOptions, Options, Search

pytestmark = pytest.mark.django_db

MILLION = 1_000_000
LAPTOP = Machine(2, 8_000)
SMALL = Machine(2, 1_200)
TWO_CORES = LocalResources(cpu=2)
JOB = CloudRunResources(project="shop", region="europe-west1", job="training")
MICRO = VmResources(project="shop", zone="us-central1-a", machine="ml-training-vm")


@pytest.fixture(autouse=True)
def _no_cloud(settings):
    settings.GOOGLE_CLOUD_PROJECT = ""


@pytest.fixture
def cloud(settings):
    settings.GOOGLE_CLOUD_PROJECT = "shop"
    for name in ("DATA_DIR", "RUNS_DIR", "ARTIFACTS_DIR"):
        setattr(settings, name, f"gs://shop/{name}")


def local(rows: int, here: Machine = LAPTOP, **options: Any) -> Estimate:
    return estimate_rows("local", LocalResources(), rows, Options(**options), here=here)


def reasons(rows: int, here: Machine = LAPTOP, **given: Any) -> dict[str, str]:
    return dict(choose(rows, given=given, here=here).refused)


# --- what to expect ---


@pytest.mark.parametrize(
    ("rows", "seconds", "memory_mb"),
    [(100_000, 15, 660), (1_000_000, 125, 1_881), (6_400_000, 468, 4_392)],
    ids=["100k", "1M", "6.4M"],
)
def test_without_experience_it_is_what_was_measured(rows, seconds, memory_mb):
    expected = local(rows)
    assert expected.seconds == seconds + 2
    assert expected.memory_mb == memory_mb
    assert "measured on 2 cores; nothing is charged" in expected.words


@given(st.integers(1, 10**8), st.integers(1, 10**8))
def test_more_rows_never_need_less(one, other):
    less, more = (local(rows) for rows in sorted((one, other)))
    assert 0 < less.seconds <= more.seconds
    assert 0 < less.memory_mb <= more.memory_mb


def test_more_cores_help_less_and_less_and_a_share_of_a_core_is_slow():
    took = [local(MILLION, Machine(cores, None)).seconds for cores in (0.25, 0.5, 1, 2, 4, 8, 64)]
    assert took == sorted(took, reverse=True)
    assert took[0] > 5 * took[3]
    assert took[-1] > took[3] / 2.1


def test_a_search_takes_longer_up_to_its_budget():
    plain = local(MILLION).seconds
    searched = local(MILLION, search=Search(configurations=20)).seconds
    assert plain * 2 < searched < plain * 4
    short = local(MILLION, search=Search(configurations=20, minutes=1)).seconds
    assert short == plain + 60


def test_a_memory_limit_is_planned_for():
    assert local(MILLION, memory_limit_mb=1_000).memory_mb == 1_000


def test_a_classifier_takes_memory_by_its_columns_and_trees():
    values = ", ".join(f'"v{number}"' for number in range(199))
    wide = f'{CHURN}\n[inputs.town]\ntype = "category"\nvalues = [{values}]\n'
    needed = {}
    for name, source in (("churn", CHURN), ("wide", wide.replace('"churn"', '"wide"', 1))):
        classifiers.register_model(source)
        options = ClassifierOptions()
        needed[name] = estimate_rows("local", TWO_CORES, MILLION, options, model=name).memory_mb
    assert needed["wide"] - needed["churn"] > MILLION * 0.8 * 4 * 199 / 2**20


def test_cloud_runs_estimate_has_its_price():
    expected = estimate_rows("cloud-run", JOB, MILLION)
    assert expected.seconds < 125 + 60
    assert 0.02 < expected.usd < 0.05
    assert f"it costs about ${expected.usd:.4f}" in expected.words
    stored = {"project": "shop", "region": "europe-west1", "job": "training"}
    assert estimate_rows("cloud-run", stored, MILLION) == expected
    elsewhere = estimate_rows("cloud-run", stored | {"region": "mars-north1"}, MILLION)
    assert elsewhere.usd is None
    assert "what it costs is not known" in elsewhere.words


def test_too_little_memory_is_a_warning_with_what_to_do():
    (warning,) = estimate_rows("vm", MICRO, MILLION).warnings
    assert "needs about 1.8 GB of memory and has 774 MB on e2-micro" in warning
    assert "--memory-limit or --sample" in warning
    assert estimate_rows("vm", MICRO, 10_000).warnings == ()


def test_a_run_takes_the_rows_that_it_asks_for():
    data = make_dataset(rows=MILLION)
    assert run_estimate("local", TWO_CORES, data).words.startswith("1,000,000 rows")
    assert run_estimate("local", TWO_CORES, data, 5_000).words.startswith("5,000 rows")
    assert run_estimate("local", TWO_CORES, data, 2 * MILLION).words.startswith("1,000,000 rows")


# --- what earlier runs teach ---


def ran(version: str, seconds: float, rows: int = MILLION, **changes: Any) -> TrainingRun:
    name = f"data-{rows}"
    run = make_run(version, dataset=make_named(name, rows))
    now = timezone.now()
    TrainingRun.objects.filter(pk=run.pk).update(
        **{
            "state": RunState.SUCCEEDED,
            "model_version": register(version),
            "finished_at": now,
            "resources": {"cpu": 2},
            "report": {"timings": {"load": 1.0, "fit": seconds - 1}, "peak_memory_mb": 3_762},
        }
        | changes
    )
    return run


def make_named(name: str, rows: int) -> str:
    from training.models import Dataset

    if not Dataset.objects.filter(name=name).exists():
        make_dataset(name, rows=rows)
    return name


@pytest.fixture
def _registry(settings, tmp_path):
    settings.ARTIFACTS_DIR = str(tmp_path)
    seed_registry()


@pytest.mark.usefixtures("_registry")
class TestExperience:
    def test_runs_of_a_like_size_at_the_same_place_decide(self):
        for number, seconds in enumerate((250, 375, 5_000)):
            ran(f"1.{number}.0", seconds)
        expected = local(MILLION)
        assert expected.seconds == 375 + 2, "the median of 2, 3 and 40 times as long"
        assert expected.memory_mb == 3_762
        assert "by 3 earlier runs like it" in expected.words
        assert local(2 * MILLION).seconds > 375 * 1.4

    def test_others_do_not(self):
        ran("1.0.0", 5_000, rows=50_000)
        ran("1.1.0", 5_000, launcher="vm")
        ran("1.2.0", 5_000, state=RunState.FAILED, model_version=None)
        ran("1.3.0", 5_000, report={"metrics": {}})
        assert local(MILLION).seconds == 125 + 2

    def test_the_cores_that_they_had_count(self):
        ran("1.0.0", 125, resources={"cpu": 1})
        quick = local(MILLION).seconds
        assert quick == round(125 / 1.5 + 2)

    def test_resources_of_an_older_form_do_not_stop_anybody(self):
        ran("1.0.0", 250, resources={"cores": 2})
        assert local(MILLION).seconds == 250 + 2


# --- where to ---


@pytest.mark.usefixtures("cloud")
class TestChoosing:
    def test_this_machine_where_it_fits_because_it_costs_nothing(self):
        choice = choose(MILLION, here=LAPTOP)
        assert (choice.launcher, choice.estimate.usd) == ("local", 0)
        assert choice.reason.startswith("local: 1,000,000 rows take about 2 min and 1.8 GB")
        assert "Otherwise cloud-run would take" in choice.reason
        assert len(choice.reason) <= REASON_LENGTH

    def test_never_an_e2_micro_for_a_million_rows(self):
        why = reasons(MILLION)["vm"]
        assert why == "it needs about 1.8 GB of memory and e2-micro has 0.8 GB."
        assert choose(MILLION, here=SMALL).launcher == "cloud-run"
        why_small = reasons(MILLION, SMALL)["local"]
        assert "this machine has 1.2 GB free" in why_small

    def test_a_small_one_may_go_to_an_e2_micro(self):
        choice = choose(50_000, here=Machine(2, 300))
        assert choice.launcher == "vm"
        assert dict(choice.refused).keys() == {"local"}

    def test_a_larger_machine_takes_it_where_it_is_cheaper(self, settings):
        settings.TRAINING_VM_TYPE = "e2-standard-2"
        choice = choose(MILLION, here=SMALL)
        assert choice.launcher == "vm"
        assert choice.resources.machine_type == "e2-standard-2"

    def test_what_is_asked_for_counts(self):
        assert reasons(MILLION, disk_gb=50, machine_type="e2-medium").keys() == {
            "local", "cloud-run",
        }  # fmt: skip
        with pytest.raises(RunRefused, match="2 min, too near to the limit of 2 min"):
            choose(MILLION, given={"timeout_s": 120}, here=LAPTOP)

    def test_what_takes_more_than_an_hour_goes_where_it_is_quickest(self):
        rows = 60 * MILLION
        big = Machine(2, 100_000)
        choice = choose(rows, Options(memory_limit_mb=6_000), here=big)
        assert choice.launcher == "cloud-run"
        assert choice.estimate.seconds < local(rows, big).seconds

    def test_cloud_run_is_refused_near_its_time_limit(self):
        why = dict(choose(150 * MILLION, Options(memory_limit_mb=6_000), here=LAPTOP).refused)
        assert "too near to the limit of 2 h" in why["cloud-run"]

    def test_an_unknown_machine_type_is_no_reason_to_fail(self, settings):
        settings.TRAINING_VM_TYPE = "z9-mega"
        choice = choose(MILLION, here=SMALL)
        assert choice.launcher == "cloud-run", "a price that is not known comes last"

    def test_when_no_place_can_take_it_each_says_why(self):
        with pytest.raises(RunRefused) as refusal:
            choose(50 * MILLION, here=LAPTOP)
        said = refusal.value.detail
        assert said.startswith("No place can take 50,000,000 rows. Not local: it needs about")
        assert "Not cloud-run: it needs" in said
        assert "Not vm: it needs" in said


def test_no_cloud_without_a_project():
    assert reasons(1_000) == {
        "cloud-run": "The launcher “cloud-run” needs GOOGLE_CLOUD_PROJECT.",
        "vm": "The launcher “vm” needs GOOGLE_CLOUD_PROJECT.",
    }


def test_no_cloud_without_a_bucket(settings, tmp_path):
    settings.GOOGLE_CLOUD_PROJECT = "shop"
    settings.RUNS_DIR = "gs://shop/runs"
    settings.DATA_DIR = settings.ARTIFACTS_DIR = str(tmp_path)
    why = reasons(1_000)
    assert why["vm"] == why["cloud-run"]
    assert why["vm"] == "DATA_DIR and ARTIFACTS_DIR must be in a bucket: set BUCKET_NAME."


def test_this_machine_has_cores_and_memory():
    here = this_machine()
    assert here.cores >= 1
    assert here.memory_mb is None or here.memory_mb > 0
    assert machine_of(LocalResources(cpu=1, memory_mb=700), here) == (1, 700)
    assert machine_of(resources_for("local"), here) == here
