"""Delete everything of Sentinelle in a Google Cloud project."""

import sys
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from deployments.gcp.grants import Names
from deployments.gcp.teardown import Survey, Thing, survey
from deployments.management import cloud
from deployments.management.base import SentinelleCommand
from deployments.management.cloud import INTERRUPTED, WRONG_USAGE, named


class Command(SentinelleCommand):
    help = (
        "Delete everything of Sentinelle in a Google Cloud project: what setup_cloud, "
        "deploy_training_job, deploy_ml_engine and deploy_function made there. It lists what it "
        "will delete and what stays, and asks for the project's ID."
    )
    examples = """Examples:
  manage.py teardown --project my-project --region europe-west1 --dry-run
  manage.py teardown --project my-project --region europe-west1
  manage.py teardown --project my-project --region europe-west1 --keep-bucket

Ours is what has a label of ours (sentinelle, or app=sentinelle), and the service accounts
sentinelle-…; everything else stays and is listed. The database goes with its backups: to keep the
data, export it first (docs/deployment.md). Stop servers that run elsewhere before, or they make
jobs and machines anew. Interrupted, it is started again and goes on.

Exit status: 0 nothing is left, 1 Google refused or something is left, 2 wrong usage,
130 interrupted."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, help="the project's ID")
        parser.add_argument("--region", default=settings.GOOGLE_CLOUD_REGION, help="%(default)s")
        parser.add_argument("--bucket", help="by default PROJECT-ml-data")
        parser.add_argument(
            "--keep-bucket", action="store_true", help="leave the bucket with data and bundles"
        )
        parser.add_argument("--dry-run", action="store_true", help="list only, delete nothing")
        parser.add_argument("--yes", action="store_true", help="don't ask for the project's ID")

    def handle(self, **options: Any) -> None:
        names = named(
            project=options["project"],
            region=options["region"],
            bucket=options["bucket"],
            job=settings.TRAINING_JOB,
        )
        keep = options["keep_bucket"]
        found = survey(names, keep_bucket=keep)
        self._list(names, found)
        if options["dry_run"] or not found.things:
            return
        self._confirm(names, options["yes"])
        for thing in found.things:
            self._delete(thing)
        self._what_is_left(names, survey(names, keep_bucket=keep))

    def _list(self, names: Names, found: Survey) -> None:
        if found.things:
            self.stdout.write(f"To be deleted in {names.project}, {names.region}:")
        else:
            self.stdout.write(f"There is nothing of Sentinelle in {names.project}, {names.region}.")
        for thing in found.things:
            note = f" ({thing.note})" if thing.note else ""
            self.stdout.write(f"  {thing.kind} {thing.name}{note}")
        self.stdout.write("Not deleted:")
        for left in found.others:
            self.stdout.write(f"  {left.what}: {left.why}")

    def _confirm(self, names: Names, yes: bool) -> None:
        if yes:
            return
        if not sys.stdin.isatty():
            raise CommandError(
                "Nobody is here to answer; give --yes, or --dry-run to see what would be deleted.",
                returncode=WRONG_USAGE,
            )
        typed = input(f"This can't be undone. Type {names.project} to delete it all: ").strip()
        if typed != names.project:
            raise CommandError("That is another name: nothing was deleted.")

    def _delete(self, thing: Thing) -> None:
        what = f"{thing.kind} {thing.name}"
        try:
            thing.delete(cloud.WAITS, lambda words: self.stderr.write(f"  {what}: {words}"))
        except KeyboardInterrupt:
            raise CommandError(
                "Interrupted. Start it again: it goes on from here.", returncode=INTERRUPTED
            ) from None
        self.stdout.write(f"{what}: deleted")
        self.stdout.flush()

    def _what_is_left(self, names: Names, found: Survey) -> None:
        if found.things:
            left = ", ".join(f"{thing.kind} {thing.name}" for thing in found.things)
            raise CommandError(
                f"There is something again: {left}. Does a server of yours still run elsewhere? "
                "Stop it and start this command again."
            )
        words = f"Nothing of Sentinelle is left in {names.project}, {names.region} that costs"
        kept = [left.what for left in found.others if left.what.startswith("bucket ")]
        self.stdout.write(self.style.SUCCESS(f"{words}{', but the ' + kept[0] if kept else ''}."))
