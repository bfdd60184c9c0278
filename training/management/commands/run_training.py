"""Train on Cloud Run, with the arguments of the script of that name."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from deployments.management.base import system_user
from deployments.management.cloud import JobCommand, named
from training import provisioning, services
from training.following import Follower


class Command(JobCommand):
    help = (
        "Train a version in an execution of the Cloud Run job. The same as train --launcher "
        "cloud-run, with fewer options: a worker starts it, follows it and registers the version. "
        "Of fraud; a classifier is trained in the same job by train --model NAME --launcher "
        "cloud-run."
    )
    examples = """Examples:
  manage.py run_training my-project sentinelle-training europe-west1 1.0.0
  manage.py run_training my-project sentinelle-training europe-west1 1.1.0 --dataset cards --wait

The job has to be there: manage.py deploy_training_job. For periods, search, costs and rules use
manage.py train --launcher cloud-run."""

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_places(parser)
        parser.add_argument("--dataset", help="name of an imported data set; by default the newest")
        parser.add_argument("--wait", action="store_true", help="follow the run until it ends")

    def handle(self, **options: Any) -> None:
        names = named(
            project=options["project"],
            region=options["region"],
            bucket=options["bucket"] or settings.BUCKET_NAME,
            job=options["job"],
        )
        provisioning.bucket_of_settings(names)
        run = services.run_create(
            dataset=provisioning.dataset_to_train_on(options["dataset"]),
            version=options["version"],
            launcher="cloud-run",
            resources={"project": names.project, "region": names.region, "job": names.job},
            requested_by=system_user(),
        )
        self.stdout.write(
            f"Run {run.pk}: {run.model.name} v{run.version} on “{run.dataset.name}”, job "
            f"{names.job} in {names.region}."
        )
        if options["wait"]:
            Follower(self, run).follow()
        else:
            self.stdout.write(f"Follow it: manage.py runs watch {run.pk}")
