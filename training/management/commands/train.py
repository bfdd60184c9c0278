"""Create a training run, and follow it on request."""

import argparse
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management.base import CommandError

from deployments.management.base import SentinelleCommand, ShownProgress, system_user
from deployments.selectors import model_by_name
from engine.kinds import CLASSIFIER, FRAUD
from training import selectors, services
from training.classifier_data import SIMULATED_ROWS, has_simulator, rows_simulated
from training.facts import describe_place, sampled
from training.following import Follower
from training.management.commands.simulate import parse_date
from training.models import Dataset, Then, TrainingRun
from training.options import COUNTS, DATES, FIELDS, NUMBERS, describe_options, read_options
from training.places import LAUNCHERS, PLACE_FIELDS, read_place
from training.run_costs import run_expectation

TYPES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(DATES, parse_date),
    **dict.fromkeys(NUMBERS, float),
    **dict.fromkeys(COUNTS, int),
}
METAVARS = {
    **dict.fromkeys(DATES, "DATE"),
    "label_delay": "DURATION",
    "without": "GROUPS",
    **dict.fromkeys(COUNTS, "N"),
    "budget": "MINUTES",
    **dict.fromkeys(("review_rate", "block_rate", "test_share"), "SHARE"),
    **dict.fromkeys(("cost_review", "cost_block_legit"), "COST"),
    "memory_limit": "SIZE",
}

OF_NEW_RUNS = (
    "dataset", "semver", "model", "rows", "rules", "sample", "seed", "launcher",
    *(option.name for option in FIELDS), *(place.name for place in PLACE_FIELDS), "then",
)  # fmt: skip


class Command(SentinelleCommand):
    help = (
        "Train a version on an imported data set. A worker does it; --wait follows it. A "
        "classifier with a simulator needs neither data set nor version: rows are made up for it, "
        "and it is the next version."
    )
    examples = """Examples:
  manage.py train --dataset demo --version 1.0.0 --wait
  manage.py train --dataset demo --version 1.1.0-trial --sample 50000 --rules none
  manage.py train --dataset demo --version 1.2.0 --search 20 --budget 30 --wait
  manage.py train --dataset cards --version 2.0.0 --label-delay 7d \
      --train-until 2026-03-01 --validate-until 2026-03-15 --test-until 2026-04-15
  manage.py train --dataset cards --version 2.1.0 --review-rate 0.005 --block-rate 0.0005
  manage.py train --dataset cards --version 2.2.0 --cost-review 4 --cost-block-legit 25
  manage.py train --dataset paysim --version 3.0.0 --rules none --without labels,balances
  manage.py train --dataset cards --version 4.0.0 --launcher cloud-run --cpu 8 --memory 16Gi
  manage.py train --dataset cards --version 4.1.0 --launcher auto --wait
  manage.py train --model sponsor --wait
  manage.py train --model sponsor --rows 100000 --launcher vm --then promote
  manage.py train --model churn --dataset customers --version 1.0.0 --trees 200
  manage.py train --restart 4f1c0e2a-5d2b-4b1e-9a55-0c6f6a3f5d11 --wait

Time goes  train | validation | label delay | test.  Nothing that becomes known after the cut-off
decides what is fitted or tuned. docs/training.md explains each option."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--dataset", help="name of an imported data set")
        parser.add_argument("--version", dest="semver", help="the version to make, such as 1.0.0")
        parser.add_argument("--model", help=f"by default {settings.MODEL_NAME}")
        parser.add_argument(
            "--rows",
            type=int,
            help=f"of a classifier without --dataset: so many are made up ({SIMULATED_ROWS:,})",
        )
        parser.add_argument("--rules", help="rule set, or none; by default the one that serves")
        parser.add_argument(
            "--sample", type=int, help="only the most recent N rows (of a classifier, the first)"
        )
        parser.add_argument("--seed", type=int, help="of all that is drawn at random (0)")
        for option in FIELDS:
            parser.add_argument(
                f"--{option.name.replace('_', '-')}",
                type=TYPES.get(option.name, str),
                metavar=METAVARS.get(option.name),
                help=option.help.replace("%", "%%"),
            )
        parser.add_argument(
            "--launcher", choices=LAUNCHERS, help="where it executes (local); auto says why"
        )
        for place in PLACE_FIELDS:
            parser.add_argument(
                f"--{place.name.replace('_', '-')}",
                type=int if place.name == "cpu" else str,
                metavar=place.metavar,
                help=place.help,
            )
        parser.add_argument(
            "--then",
            choices=Then.values,
            help="what is done with the version (keep); promote if it is better, else propose",
        )
        parser.add_argument("--restart", type=UUID, metavar="RUN", help="start a run again")
        parser.add_argument("--wait", action="store_true", help="follow the run until it ends")

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        # Django's own --version tells its version; here it is the version to train.
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def handle(self, **options: Any) -> None:
        run = self._run(options)
        if options["wait"]:
            Follower(self, run).follow()
        else:
            self.stdout.write(f"Follow it: manage.py runs watch {run.pk}")

    def _run(self, options: dict[str, Any]) -> TrainingRun:
        _refuse_ignored(options)
        if options["restart"]:
            earlier = selectors.run_by_id(options["restart"])
            run = services.run_restart(earlier, requested_by=system_user(), may_promote=True)
        else:
            run = self._create(options)
        data = run.dataset
        part = f"{sampled(run)} {run.sample:,} of " if run.sample else ""
        rules = f", rules “{run.rules_name}”" if run.rules_name else ""
        self.stdout.write(
            f"Run {run.pk}: {run.model.name} v{run.version} on “{data.name}” "
            f"({part}{data.what}){rules}."
        )
        for name, value in (
            *describe_options(run.typed_options),
            ("Where", run.launcher_reason or describe_place(run)),
            ("Expected", run_expectation(run)),
        ):
            if value:
                self.stdout.write(f"  {name}: {value}")
        return run

    def _create(self, options: dict[str, Any]) -> TrainingRun:
        name = options["model"] or settings.MODEL_NAME
        is_classifier = model_by_name(name).is_classifier
        if not is_classifier and not (options["dataset"] and options["semver"]):
            raise CommandError("Give --dataset and --version, or --restart.")
        if options["rows"] is not None and (options["dataset"] or not is_classifier):
            raise CommandError(
                "--rows is how many rows are made up for a classifier that is trained without "
                "--dataset. To train on a part of a data set, give --sample."
            )
        launcher = options["launcher"] or "local"
        asked = read_options(
            {option.name: options[option.name] for option in FIELDS},
            CLASSIFIER if is_classifier else FRAUD,
        )
        return services.run_create(
            dataset=options["dataset"] or self._simulated(name, options).name,
            version=options["semver"] or selectors.next_version(name),
            model=name,
            rules=options["rules"],
            sample=options["sample"],
            seed=options["seed"] or 0,
            options=asked,
            launcher=launcher,
            resources=read_place(launcher, options),
            requested_by=system_user(),
            then=options["then"] or Then.KEEP,
        )

    def _simulated(self, model: str, options: dict[str, Any]) -> Dataset:
        """The rows that the model's simulator makes up."""
        if not has_simulator(model_by_name(model)):
            raise CommandError(
                f"Give --dataset: the definition of “{model}” names no simulator that could make "
                f"rows up. Import some: manage.py import_dataset NAME FILE --model {model}"
            )
        rows = SIMULATED_ROWS if options["rows"] is None else options["rows"]
        shown = ShownProgress(self)
        try:
            return rows_simulated(model=model, rows=rows, seed=options["seed"] or 0, progress=shown)
        finally:
            shown.end()


def _refuse_ignored(options: dict[str, Any]) -> None:
    """A run that is started again has its options; CommandError for another given beside it."""
    if options["restart"] is None:
        return
    names = [name for name in OF_NEW_RUNS if options[name] is not None]
    if names:
        names = ["version" if name == "semver" else name for name in names]
        written = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise CommandError(
            f"--restart takes a run as it is, without {written}. For other options start a new "
            "run, with --dataset and --version."
        )
