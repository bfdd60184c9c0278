"""Make a Google Cloud project ready, from nothing."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from deployments.gcp.control_data import DATABASE
from deployments.gcp.control_plane import MANAGE, WEB, program_steps
from deployments.gcp.grants import TRAINING, Names
from deployments.management.base import SentinelleCommand
from deployments.management.cloud import carry_out, confirm, idle_costs, named, print_calls
from deployments.standing import Size, table
from training import provisioning


class Command(SentinelleCommand):
    help = (
        "Make a Google Cloud project ready to train in: APIs, bucket, image repository, service "
        "accounts with the roles they need, secrets, the Cloud Run job, and on request a "
        "training machine, or Sentinelle itself with its database. Safe to repeat: what is there "
        "already stays, and an interrupted set-up goes on."
    )
    examples = """Examples:
  manage.py setup_cloud --project my-project --region europe-west1 --dry-run
  manage.py setup_cloud --project my-project --region europe-west1
  manage.py setup_cloud --project my-project --region europe-west1 --vm --yes
  manage.py setup_cloud --project my-project --region europe-west1 --control-plane

It acts as you: log in first with `gcloud auth application-default login`. You need the role Owner,
or those that docs/cloud.md lists. --dry-run calls nobody: it prints what an empty project takes.
--control-plane costs money every hour from then on; the months' costs are printed first. What is
made is deleted by manage.py teardown.

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
            help="of the job; without one, a new job gets Google's sample until you deploy, and "
            "with --control-plane Cloud Build makes it of this source",
        )
        parser.add_argument(
            "--vm", action="store_true", help="also the machine TRAINING_VM, and its roles"
        )
        parser.add_argument(
            "--control-plane",
            action="store_true",
            help="also Sentinelle itself: PostgreSQL, Redis, web and workers, which cost all day",
        )
        parser.add_argument(
            "--database",
            metavar="INSTANCE",
            default=DATABASE,
            help="name of the Cloud SQL instance (%(default)s); Google may keep the name of one "
            "that was deleted for a week",
        )
        parser.add_argument(
            "--database-tier",
            metavar="TIER",
            default=Size().tier,
            help="its machine type when it is new (%(default)s); db-f1-micro for a trial",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="print every call instead of making any"
        )
        parser.add_argument("--yes", action="store_true", help="don't ask before it starts")

    def handle(self, **options: Any) -> None:
        control_plane = options["control_plane"]
        names = named(
            project=options["project"],
            region=options["region"],
            bucket=options["bucket"],
            job=options["job"],
            vm=options["vm"],
            database=options["database"] if control_plane else "",
        )
        size = Size(tier=options["database_tier"])
        if control_plane:
            self._set_up_control_plane(names, size, options)
            return
        steps = provisioning.setup_steps(names, options["image"])
        if options["dry_run"]:
            print_calls(self, steps)
            self.stdout.write(f"\n{idle_costs(names)}")
            return
        confirm(f"Set up the project {names.project} in {names.region}", options["yes"])
        carry_out(self, steps)
        self._what_now(names)

    def _set_up_control_plane(self, names: Names, size: Size, options: dict[str, Any]) -> None:
        image, build = options["image"], []
        if not image:
            image, step = provisioning.image_step(names)
            build = [step]
        before = provisioning.setup_steps(names, image, keep=size)
        # The job's steps come last: it can be made when its image is there.
        before, job = before[:-2], before[-2:]
        after = [*job, *program_steps(names, size, image)]
        costs = (
            "Sentinelle on Google costs, from the hour it is made until manage.py teardown:\n"
            f"{table(size, names.region)}"
        )
        if options["dry_run"]:
            print_calls(self, before)
            if build:
                self.stdout.write(f"\n# the source, to gs://{names.bucket}/builds/")
            print_calls(self, [*build, *after])
            self.stdout.write(f"\n{costs}")
            return
        self.stdout.write(f"{costs}\n")
        confirm(f"Make this in the project {names.project}", options["yes"])
        carry_out(self, before)
        if build:
            provisioning.upload_source(names)
        carry_out(self, [*build, *after])
        self._how_to_open(names)

    def _how_to_open(self, names: Names) -> None:
        region, project = names.region, names.project
        login = 'resource.labels.job_name="sentinelle-manage" textPayload:"one-time-login"'
        self.stdout.write(
            f"""
Sentinelle runs, closed to everybody whom Google does not let in. To open the admin:
gcloud run services proxy {WEB} --region={region} --project={project}
gcloud run jobs execute {MANAGE} --args=manage.py,login_link --region={region} --project={project}
The second writes into its log the path of a link that logs in once; put it behind
http://localhost:8080. The log:
gcloud logging read '{login}' --project={project}

To go on: docs/deployment.md. To delete everything:
manage.py teardown --project {project} --region {region}"""
        )

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
