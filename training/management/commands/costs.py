"""`manage.py costs`: what training has cost in a month, and what a run would cost."""

import argparse
import json
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.utils import timezone

from deployments.costs import Cost, dollars, euros, prices, requests_cost
from deployments.gcp.limits import parse_memory
from deployments.management.base import SentinelleCommand
from deployments.management.cloud import check_name
from deployments.selectors import model_by_name
from deployments.standing import Size
from deployments.standing import table as standing_table
from training.cost_report import (
    MonthCosts,
    RunCost,
    costs_csv,
    costs_json,
    month_costs,
    read_month,
)
from training.launchers.choose import choose
from training.launchers.estimate import estimate_rows
from training.launchers.resources import KINDS, about_time, describe_resources, resources_for
from training.metrics import Cell, Table, text_table
from training.pipeline.spec import AnyOptions, ClassifierOptions, Options

HEADER = ("Run", "Launcher", "Resources", "State", "Time", "Estimate", "Actual")


class Command(SentinelleCommand):
    help = "Show what training has cost in a month, or estimate a run or a service."
    examples = """\
examples:
  manage.py costs                                         this month
  manage.py costs --month 2026-11 --format csv > november.csv
  manage.py costs estimate --rows 1000000                 at each place, and what auto takes
  manage.py costs estimate --launcher cloud-run --rows 1000000 --cpu 4 --memory 8Gi
  manage.py costs estimate --launcher vm --rows 1000000 --machine-type e2-standard-4
  manage.py costs estimate --model sponsor --launcher vm --rows 1000000
  manage.py costs service --requests 1000000 --seconds 0.2 --cpu 2 --memory 2Gi
  manage.py costs control-plane                           Sentinelle itself on Google, a month"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "what",
            nargs="?",
            choices=["month", "estimate", "service", "control-plane"],
            default="month",
            help="a month's runs (the default), what a run would cost, what answering would, or "
            "what Sentinelle itself does on Google",
        )
        parser.add_argument("--month", default="", metavar="YYYY-MM", help="by default this one")
        parser.add_argument(
            "--format", choices=["table", "csv", "json"], default="table", help="of the month"
        )
        parser.add_argument("--launcher", choices=list(KINDS), help="by default all of them")
        parser.add_argument("--rows", type=int, help="to train on")
        parser.add_argument("--cpu", type=int, help="processors, of a job or a service")
        parser.add_argument("--memory", metavar="SIZE", help="such as 8Gi")
        parser.add_argument("--machine-type", help="such as e2-standard-4")
        parser.add_argument(
            "--model", default=settings.MODEL_NAME, help="that is trained (%(default)s)"
        )
        parser.add_argument("--requests", type=int, help="to a service")
        parser.add_argument("--seconds", type=Decimal, help="that each request takes")

    def handle(self, **options: Any) -> None:
        if options["what"] == "estimate":
            self._estimate(options)
        elif options["what"] == "service":
            self._service(options)
        elif options["what"] == "control-plane":
            self.stdout.write(standing_table(Size(), settings.GOOGLE_CLOUD_REGION))
        else:
            now = timezone.now()
            self._month(month_costs(read_month(options["month"], now), now), options["format"])

    # --- a month ---

    def _month(self, costs: MonthCosts, form: str) -> None:
        if form == "csv":
            self.stdout.write(costs_csv(costs), ending="")
        elif form == "json":
            self.stdout.write(json.dumps(costs_json(costs), indent=2))
        else:
            self._show(costs)

    def _show(self, costs: MonthCosts) -> None:
        if costs.runs:
            rows = [tuple(map(Cell, _row(run))) for run in costs.runs]
            self.stdout.write(text_table(Table(f"Training in {costs.title}", HEADER, rows)) + "\n")
        else:
            self.stdout.write(f"No training run counts in {costs.title}.")
        total, table = costs.total, prices()
        self.stdout.write(f"Total: {dollars(total.usd)} = {euros(total.usd)}")
        if total.unknown:
            self.stdout.write(f"Without {total.unknown} of which the cost is not known.")
        self.stdout.write(
            f"List prices of {table.date} (machine types of {table.vm.date}), "
            f"{table.euro.usd_per_eur} dollars a euro on {table.euro.date}. "
            "Free tiers are not subtracted. See docs/costs.md."
        )

    # --- what would be ---

    def _estimate(self, options: dict[str, Any]) -> None:
        rows = options["rows"]
        if rows is None or rows < 1:
            raise CommandError("How many rows? Give --rows, 1 or more.")
        model = model_by_name(options["model"])
        wanted = ClassifierOptions() if model.is_classifier else Options()
        chosen = [options["launcher"]] if options["launcher"] else list(KINDS)
        for launcher in chosen:
            self._estimate_at(launcher, rows, wanted, options)
        if options["launcher"] is None:
            choice = choose(rows, wanted, model=model.name)
            self.stdout.write(f"\nauto takes {choice.reason}")

    def _estimate_at(
        self, launcher: str, rows: int, wanted: AnyOptions, options: dict[str, Any]
    ) -> None:
        given = {
            "cpu": options["cpu"],
            "memory_mb": options["memory"],
            "machine_type": options["machine_type"],
        }
        fields = KINDS[launcher].__struct_fields__
        if options["launcher"] is None:  # what is given is for those that have it
            given = {name: value for name, value in given.items() if name in fields}
        if "project" in fields:
            given["project"] = settings.GOOGLE_CLOUD_PROJECT or "-"  # an estimate needs none
        resources = resources_for(launcher, given)
        for name in ("region", "zone"):
            check_name(name, getattr(resources, name, None))
        expected = estimate_rows(launcher, resources, rows, wanted, model=options["model"])
        self.stdout.write(f"{launcher}: {describe_resources(resources)}")
        self.stdout.write(f"  {expected.words}")
        notes = (expected.price_note,) if expected.price_note and launcher != "local" else ()
        for words in (*notes, *expected.warnings):
            self.stdout.write(f"  {words}")

    def _service(self, options: dict[str, Any]) -> None:
        needed = ("requests", "seconds", "cpu", "memory")
        if missing := [name for name in needed if options[name] is None]:
            raise CommandError(f"Give {', '.join(f'--{name}' for name in missing)} as well.")
        cost = requests_cost(
            options["requests"],
            options["seconds"],
            Decimal(options["cpu"]),
            parse_memory(options["memory"]),
            settings.GOOGLE_CLOUD_REGION,
        )
        self._bill(cost)

    def _bill(self, cost: Cost) -> None:
        if cost.usd is None:
            raise CommandError(cost.note)
        for part in cost.parts:
            self.stdout.write(f"{dollars(part.usd):>12}  {part.name}")
        self.stdout.write(f"{dollars(cost.usd):>12}  in all, {euros(cost.usd)}")


def _row(run: RunCost) -> tuple[str, ...]:
    charged = "unknown" if run.charged is None else about_time(run.charged.total_seconds())
    figures = (charged, dollars(run.estimate), dollars(run.actual))
    if run.is_active:
        figures = ("-", dollars(run.estimate), "-")
    name = f"{run.name} ({run.run_id[:8]})"
    return name, run.launcher, run.resources, run.state, *figures
