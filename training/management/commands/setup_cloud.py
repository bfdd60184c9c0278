"""Make a Google Cloud project ready, from nothing."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from deployments.gcp.grants import TRAINING, Names
from deployments.management.base import SentinelleCommand
from deployments.management.cloud import carry_out, confirm, idle_costs, named, print_calls
from training import provisioning


class Command(SentinelleCommand):
    help = (
        "Make a Google Cloud project ready to train in: APIs, bucket, image repository, service "
        "accounts with the roles they need, secrets, the Cloud Run job, and on request a "
        "training machine. Safe to repeat: what is there already stays, and an interrupted set-up "
        "goes on."
    )
    examples = """Examples:
  manage.py setup_cloud --project my-project --region europe-west1 --dry-run
  manage.py setup_cloud --project my-project --region europe-west1
  manage.py setup_cloud --project my-project --region europe-west1 --vm --yes

It acts as you: log in first with `gcloud auth application-default login`. You need the role Owner,
or those that docs/cloud.md lists. --dry-run calls nobody: it prints what an empty project takes.

Exit status: 0 done, 1 Google refused or does not answer, 2 wrong usage, 130 interrupted."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, help="the project's ID")
        parser.add_argument("--region", default=settings.GOOGLE_CLOUD_REGION, help="%(default)s")
        parser.add_argument("--bucket", help="the bucket to make; by default PROJECT-ml-data")
        parser.add_argument(
            "--job", default=settings.TRAINING_JOB, help="name of the Cloud Run job (%(default)s)"
        )
        parser.add_argument(
            "--image",
            default=settings.TRAINING_IMAGE,
            help="of the job; without one, a new job gets Google's sample until you deploy",
        )
        parser.add_argument(
            "--vm", action="store_true", help="also the machine TRAINING_VM, and its roles"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="print every call instead of making any"
        )
        parser.add_argument("--yes", action="store_true", help="don't ask before it starts")

    def handle(self, **options: Any) -> None:
        names = named(
            project=options["project"],
            region=options["region"],
            bucket=options["bucket"],
            job=options["job"],
            vm=options["vm"],
        )
        steps = provisioning.setup_steps(names, options["image"])
        if options["dry_run"]:
            print_calls(self, steps)
            self.stdout.write(f"\n{idle_costs(names)}")
            return
        confirm(f"Set up the project {names.project} in {names.region}", options["yes"])
        carry_out(self, steps)
        self._what_now(names)

    def _what_now(self, names: Names) -> None:
        self.stdout.write(
            f"""{idle_costs(names)}

Settings of your servers (docs/operations.md):
GOOGLE_CLOUD_PROJECT={names.project}
GOOGLE_CLOUD_REGION={names.region}
BUCKET_NAME={names.bucket}
TRAINING_JOB={names.job}
TRAINING_SERVICE_ACCOUNT={names.account(TRAINING)}

Then build the image and deploy the job:
manage.py deploy_training_job {names.project} {names.job} {names.region} 1.0.0"""
        )
