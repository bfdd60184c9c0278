"""What the commands that change a Google Cloud project have in common."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser

from deployments.costs import dollars, prices
from deployments.gcp.grants import Names
from deployments.gcp.rest import Request, Waits
from deployments.gcp.setup import Step, apply, calls
from deployments.management.base import SentinelleCommand
from deployments.models import semver_validator

WAITS = Waits()
WRONG_USAGE, INTERRUPTED = 2, 130
NAMES = {
    "project": (
        r"[a-z][a-z0-9-]{4,28}[a-z0-9]",
        "a project's ID: 6 to 30 small letters, digits and hyphens",
    ),
    "region": (r"[a-z]+-[a-z]+\d+", "a region such as europe-west1, not a zone"),
    "zone": (r"[a-z]+-[a-z]+\d+-[a-z]", "a zone such as us-central1-a, not a region"),
    "bucket": (
        r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]",
        "3 to 63 small letters, digits, hyphens, dots and underscores, without gs://",
    ),
    "job": (r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?", "up to 49 small letters, digits and hyphens"),
    "function": (
        r"[a-z][a-z0-9-]{2,47}[a-z0-9]",
        "4 to 49 small letters, digits and hyphens, a letter first",
    ),
    "database": (r"[a-z]([a-z0-9-]{0,60}[a-z0-9])?", "up to 62 small letters, digits and hyphens"),
}

OPTIONAL = ("zone", "database", "function")


class JobCommand(SentinelleCommand):
    """A command on one job, with the arguments of the scripts that it replaces."""

    def add_places(self, parser: CommandParser) -> None:
        """PROJECT JOB REGION VERSION, and --bucket."""
        parser.add_argument("project", help="the project's ID")
        parser.add_argument("job", help="name of the Cloud Run job, such as sentinelle-training")
        parser.add_argument("region", help="such as europe-west1")
        parser.add_argument("version", help="the version to train, such as 1.0.0")
        parser.add_argument("--bucket", help="by default PROJECT-ml-data")

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            semver_validator(options["version"])
        except ValidationError as error:
            told = f"version: {error.messages[0]}"
            raise CommandError(told, returncode=WRONG_USAGE) from None
        return super().execute(*args, **options)

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Django's own --version would write over the version to train.
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)


def idle_costs(names: Names) -> str:
    """What the project costs while nothing trains."""
    table = prices()
    kept = f"the bucket {dollars(table.storage.gb_month)} per GB and month"
    if names.vm:
        disk = dollars(table.vm.disk_gb_month)
        kept += f", the machine's disk {disk} per GB and month outside the free tier"
    return (
        f"While nothing trains, only what is kept costs: {kept}, images about $0.10 per GB and "
        "month after the first 0.5 GB, secrets nothing up to six. A job costs nothing between its "
        "executions. See manage.py costs."
    )


def named(
    *,
    project: str,
    region: str,
    bucket: str | None,
    job: str,
    vm: bool = False,
    database: str = "",
    function: str = "",
) -> Names:
    """What things are called; CommandError for a name that Google would not take."""
    names = Names(
        project=project,
        region=region,
        bucket=bucket or f"{project}-ml-data",
        job=job,
        vm=settings.TRAINING_VM if vm else "",
        zone=settings.TRAINING_VM_ZONE if vm else "",
        database=database,
        function=function,
    )
    for field in NAMES:
        check_name(field, getattr(names, field) or (None if field in OPTIONAL else ""))
    return names


def check_name(field: str, found: str | None) -> None:
    """CommandError when what was found can't be a name of that kind; None is not looked at."""
    pattern, expected = NAMES[field]
    if found is not None and not re.fullmatch(pattern, found):
        raise CommandError(
            f"The {field} is “{found}”; expected {expected}.", returncode=WRONG_USAGE
        )


def written(request: Request) -> str:
    """A call as it is printed: method, address, body."""
    lines = [f"{request.method} {request.url}"]
    if request.body is not None:
        lines.append(json.dumps(request.shown(), indent=2, ensure_ascii=False))
    if request.operations:
        lines.append("(then asks every few seconds whether that has ended)")
    return "\n".join(lines)


def print_calls(command: SentinelleCommand, steps: Iterable[Step]) -> None:
    """Print every call that an empty project takes; makes none."""
    last = None
    for step, request in calls(steps):
        if step is not last:
            command.stdout.write(f"\n# {step.title}: {step.why}")
        last = step
        command.stdout.write(written(request))


def confirm(question: str, yes: bool) -> None:
    """Ask a person; without one, refuse unless `yes`."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(
            "Nobody is here to answer; give --yes, or --dry-run to see what would be done.",
            returncode=WRONG_USAGE,
        )
    if input(f"{question}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise CommandError("Nothing was done.")


def carry_out(command: SentinelleCommand, steps: Sequence[Step]) -> None:
    """Apply the steps and print how each ended."""

    def tell(step: Step, words: str) -> None:
        command.stderr.write(f"  {step.title}: {words}")

    changed = 0
    try:
        for done in apply(steps, tell, WAITS):
            changed += done.change is not None
            words = done.change.words if done.change else "already there"
            command.stdout.write(f"{done.step.title}: {words}")
            command.stdout.flush()
    except KeyboardInterrupt:
        raise CommandError(
            "Interrupted. Start it again: it goes on from here.", returncode=INTERRUPTED
        ) from None
    command.stdout.write(command.style.SUCCESS(f"{len(steps)} steps, {changed} changed something."))
