"""A run's options: what people write, what is refused, and how it is shown."""

from datetime import UTC, datetime
from io import StringIO

import pytest
from django.core.management import call_command

from engine.errors import RunRefused
from tests.bundles import promote, register, seed_registry
from tests.training.support import make_dataset, make_run
from training import claims, services
from training.forms import TrainForm
from training.models import TrainingRun
from training.options import FIELDS, describe_options, read_options
from training.pipeline.spec import Options, decode_options, decode_spec, encode_options

DAY = 86_400_000_000


def march(day: int) -> datetime:
    return datetime(2026, 3, day, tzinfo=UTC)


EVERYTHING = {
    "train_from": march(1),
    "train_until": march(10),
    "validate_until": march(14),
    "test_until": march(28),
    "label_delay": "5d",
    "cut_off": march(15),
    "without": "labels, balances",
    "search": 12,
    "budget": 5.0,
    "review_rate": 0.02,
    "block_rate": 0.002,
    "fit_rows": 300_000,
    "memory_limit": "1.5GB",
}


def test_every_option_arrives_and_comes_back_from_the_database_as_it_was():
    options = read_options(EVERYTHING)
    assert options.periods.train_from == march(1)
    assert (options.label_delay_us, options.memory_limit_mb) == (5 * DAY, 1536)
    assert options.without == ("labels", "balances")
    assert (options.budgets.block, options.budgets.review) == (0.002, 0.02)
    assert decode_options(encode_options(options)) == options
    shown = dict(describe_options(options))
    assert shown["Train until"] == "2026-03-10 00:00"
    assert (shown["Label delay"], shown["Without"]) == ("5d", "labels, balances")
    assert len(shown) == len(EVERYTHING)


def test_nothing_given_is_the_default_and_nothing_is_kept():
    assert read_options(dict.fromkeys((field.name for field in FIELDS), None)) == Options()
    assert encode_options(Options()) == {}
    assert describe_options(Options()) == []


@pytest.mark.parametrize(
    ("given", "field", "says"),
    [
        ({"label_delay": "7 days"}, "label_delay", "not a duration such as 7d"),
        ({"memory_limit": "6"}, "memory_limit", "not a size such as 6GB"),
        ({"memory_limit": "1MB"}, "memory_limit", "1MB is not a size from 500MB on"),
        ({"train_until": march(1)}, "validate_until", "--train-until needs --validate-until"),
        ({"train_from": march(1)}, "train_until", "--train-from needs --train-until"),
        (
            {"train_until": march(9), "validate_until": march(2)},
            "validate_until",
            "Each date must be later",
        ),
        ({"budget": 5.0}, "search", "--budget needs --search"),
        ({"search": 1}, "search", "1 is not a number of configurations from 2"),
        ({"cost_review": 3.0}, "cost_block_legit", "--cost-review needs --cost-block-legit"),
        (
            {"cost_review": 3.0, "cost_block_legit": 9.0, "block_rate": 0.1},
            "block_rate",
            "by rates or by costs",
        ),
        ({"review_rate": 0.0005}, "review_rate", "must be below the review rate"),
        ({"block_rate": 0.05}, "block_rate", "must be below the review rate"),
        ({"review_rate": 2.0}, "review_rate", "2.0 is not a share above 0 and below 1"),
        ({"cost_review": -1.0, "cost_block_legit": 9.0}, "cost_review", "-1.0 is not an amount"),
        ({"search": 5, "budget": 0.0}, "budget", "0.0 is not a number of minutes above 0"),
        ({"fit_rows": 10}, "fit_rows", "10 is not a number of rows from 1,000 on"),
        ({"without": "label"}, "without", "'label' is no group of features; give labels"),
        ({"without": "labels,labels"}, "without", "a group is named twice"),
    ],
)
def test_what_can_not_be_is_refused_by_field(given, field, says):
    with pytest.raises(RunRefused) as refusal:
        read_options(given)
    assert says in refusal.value.detail
    assert refusal.value.errors[0].field == field


@pytest.fixture
def _registry(db):
    seed_registry()


@pytest.mark.usefixtures("_registry")
class TestRun:
    def test_the_command_takes_them_tells_them_and_a_restart_keeps_them(self):
        make_dataset()
        out = StringIO()
        call_command(
            "train", "--dataset", "sales", "--version", "1.0.0", "--search", "4", "--label-delay",
            "3d", "--cost-review", "4", "--cost-block-legit", "25", stdout=out,
        )  # fmt: skip
        run = TrainingRun.objects.get()
        assert run.options == {
            "label_delay_us": 3 * DAY,
            "search": {"configurations": 4, "minutes": 30.0},
            "costs": {"review": 4.0, "block_legitimate": 25.0},
        }
        assert "  Label delay: 3d\n  Search: 4\n" in out.getvalue()
        TrainingRun.objects.update(state="failed")
        again = services.run_restart(run)
        assert again.options == run.options

    def test_the_form_takes_them(self):
        make_dataset()
        given = {"model": "fraud", "dataset": "sales", "version": "1.0.0", "seed": "0"}
        form = TrainForm(given | {"train_until": "2026-03-01", "validate_until": "2026-03-08"})
        assert form.is_valid(), form.errors
        assert form.arguments()["options"].periods.validate_until == march(8)
        form = TrainForm(given | {"train_until": "2026-03-01"})
        assert form.is_valid()
        with pytest.raises(RunRefused) as refusal:
            form.arguments()
        form.show(refusal.value)
        assert "validate_until" in form.errors

    def test_the_label_delay_of_the_data_set_is_the_default(self):
        make_dataset("cards", summary={"label_delay": "2d"})
        assert make_run("1.0.0", dataset="cards").options == {"label_delay_us": 2 * DAY}
        chosen = make_run("1.1.0", dataset="cards", options=Options(label_delay_us=0))
        assert chosen.options == {"label_delay_us": 0}

    def test_the_program_is_told_the_options_and_who_serves(self, settings, tmp_path):
        settings.RUNS_DIR = str(tmp_path)
        run = make_run(options=Options(without=("labels",)))
        claims.run_prepare(run)
        spec = decode_spec((tmp_path / str(run.pk) / "spec.json").read_bytes())
        assert spec.options.without == ("labels",)
        assert spec.champion is None
        serving = register("0.9.0")
        promote("0.9.0")
        claims.run_prepare(run)
        spec = decode_spec((tmp_path / str(run.pk) / "spec.json").read_bytes())
        assert spec.champion.version == "0.9.0"
        assert spec.champion.manifest_sha256 == serving.manifest_sha256
        assert spec.champion.location == f"{settings.ARTIFACTS_DIR}/fraud/v0.9.0"
