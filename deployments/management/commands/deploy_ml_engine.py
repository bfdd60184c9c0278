"""`manage.py deploy_ml_engine`: roll the engine out to a Cloud Run service."""

from typing import Any

from django.core.management.base import CommandParser

from deployments.management.base import system_user
from deployments.management.cloud import JobCommand, check_name
from deployments.management.rollouts import Follower, add_wishes, told_wishes
from deployments.rollouts import plan
from deployments.rollouts.services import rollout_start


class Command(JobCommand):
    help = (
        "Roll a version out to a Cloud Run service: check it, build the image, migrate the "
        "database, make a revision without traffic, have it decide, and then give it the traffic. "
        "What fails leaves what serves as it is. Started again after an interruption, it goes on."
    )
    examples = """Examples:
  manage.py deploy_ml_engine my-project sentinelle-ml-engine europe-west1 1.0.0
  manage.py deploy_ml_engine my-project sentinelle-ml-engine europe-west1 1.1.0 --canary 10
  manage.py deploy_ml_engine my-project sentinelle-ml-engine europe-west1 1.1.0 --dry-run
  manage.py deploy_ml_engine my-project sentinelle-ml-engine europe-west1 1.1.0 \\
      --cpu 4 --memory 4Gi --min-instances 1 --env WEB_CONCURRENCY=4

A service keeps what it was given: what is not said is as before, and at first 2 vCPU, 2Gi, 300 s,
0 to 10 instances of 16 requests at a time, private.

Then: manage.py services status|promote|rollback|update|delete SERVICE

Exit status: 0 it serves, 1 refused or failed, 2 wrong usage, 130 interrupted; then start it again:
it goes on."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", help="the project's ID")
        parser.add_argument("service", help="such as sentinelle-ml-engine")
        parser.add_argument("region", help="such as europe-west1")
        parser.add_argument("version", help="a registered version, such as 1.0.0")
        parser.add_argument("--image", default="", help="one that is built already")
        parser.add_argument(
            "--canary", type=int, metavar="PERCENT", help="its share of the traffic at first"
        )
        add_wishes(parser)
        parser.add_argument("--reason", default="", help="why, for its timeline")
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would be done, and do nothing"
        )

    def execute(self, *args: Any, **options: Any) -> str | None:
        options["version"] = options["version"].removeprefix("v")
        return super().execute(*args, **options)

    def handle(self, **options: Any) -> None:
        for field in ("project", "region"):
            check_name(field, options[field])
        place = {name: options[name] for name in ("project", "service", "region", "version")}
        changes = told_wishes(options)
        if options["dry_run"]:
            for line in plan.lines(
                **place, image=options["image"], canary=options["canary"], changes=changes
            ):
                self.stdout.write(line)
            return
        started = rollout_start(
            **place,
            requested_by=system_user(),
            is_attended=True,
            canary=options["canary"],
            image=options["image"],
            changes=changes,
            reason=options["reason"],
        )
        if started.is_resumed:
            self.stdout.write(
                "Goes on with the rollout of "
                f"{started.deployment.created_at:%Y-%m-%d %H:%M:%S} UTC, as it was asked for then."
            )
        Follower(self).follow(started.deployment)
