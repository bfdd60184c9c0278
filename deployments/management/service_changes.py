"""The verbs of `manage.py services` that change what serves."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone
from django.utils.timezone import localtime

from deployments.management.base import system_user
from deployments.management.cloud import confirm
from deployments.management.rollouts import Follower, add_wishes, told_wishes
from deployments.models import CloudService, Deployment
from deployments.rollouts import live
from deployments.rollouts.costs import deployment_cost
from deployments.rollouts.errors import RolloutRefused
from deployments.rollouts.services import (
    deployment_canary,
    deployment_serving,
    deployment_unfinished,
    rollout_cancel,
    rollout_start,
    service_find,
)
from deployments.rollouts.wishes import differences, over, read_wishes


class ServiceChanges(BaseCommand):
    """Methods named after their verbs, which take the options."""

    def add_changes(self, verbs: Any) -> list[CommandParser]:
        """Add the verbs; the parsers that are still to be told which service it is."""
        promote = verbs.add_parser("promote", help="give the canary all of the traffic")
        rollback = verbs.add_parser("rollback", help="give it back to what had it before")
        update = verbs.add_parser("update", help="change its size, access or variables")
        cancel = verbs.add_parser("cancel", help="end a rollout and put back what it changed")
        delete = verbs.add_parser("delete", help="delete the service with its revisions")
        for verb in (promote, rollback, update):
            verb.add_argument("--reason", default="", help="why, for the timeline")
        add_wishes(update)
        update.add_argument("--image", default="", help="another than that of what serves")
        update.add_argument(
            "--canary", type=int, metavar="PERCENT", help="its share of the traffic at first"
        )
        delete.add_argument("--yes", action="store_true", help="don't ask")
        return [promote, rollback, update, cancel, delete]

    def _history(self, options: dict[str, Any]) -> None:
        found = Deployment.objects.select_related("version", "service")
        for field, value in (
            ("name", options["service"]),
            ("project", options["project"]),
            ("region", options["region"]),
        ):
            if value:
                found = found.filter(**{f"service__{field}": value})
        if not found:
            self.stdout.write("Nothing was deployed from here yet.")
        for row in found:
            at = localtime(row.created_at)
            service = "" if options["service"] else f"  {row.service.name}"
            self.stdout.write(
                f"{at:%Y-%m-%d %H:%M}{service}  "
                f"v{row.version.version:<10} {row.get_state_display():<12} "
                f"{row.percent:>3} %  {row.tag:<18} {row.requested_by:<12} "
                f"{deployment_cost(row).words}  {row.error.partition(chr(10))[0]}".rstrip()
            )

    def _promote(self, options: dict[str, Any]) -> None:
        service = _service(options)
        row = live.canary_promote(service, by=system_user(), reason=options["reason"])
        self.stdout.write(f"v{row.version.version} ({row.revision}) has all of the traffic.")

    def _rollback(self, options: dict[str, Any]) -> None:
        service = _service(options)
        leaving = deployment_canary(service) or deployment_serving(service)
        row = live.service_roll_back(service, by=system_user(), reason=options["reason"])
        assert leaving is not None
        self.stdout.write(
            f"v{row.version.version} ({row.revision}) has all of the traffic, and "
            f"v{leaving.version.version} ({leaving.revision}) none."
        )

    def _update(self, options: dict[str, Any]) -> None:
        service, changes = _service(options), told_wishes(options)
        unfinished, serving = deployment_unfinished(service), deployment_serving(service)
        if unfinished is None:
            wished = read_wishes(service.wishes)
            changed = differences(wished, over(wished, changes))
            if not changed and not options["image"]:
                self.stdout.write(f"{service.name} is like that already.")
                return
            for change in changed:
                self.stdout.write(change)
        started = rollout_start(
            service=service.name,
            project=service.project,
            region=service.region,
            version="",
            requested_by=system_user(),
            is_attended=True,
            canary=options["canary"],
            image=options["image"] or (serving.image if serving else ""),
            changes=changes,
            reason=options["reason"],
        )
        Follower(self).follow(started.deployment)

    def _cancel(self, options: dict[str, Any]) -> None:
        service = _service(options)
        row = deployment_unfinished(service)
        if row is None:
            raise RolloutRefused(f"No rollout to {service.name} goes on.")
        rollout_cancel(row, by=system_user(), now=timezone.now())
        Follower(self).follow_to_end(row)
        self.stdout.write(f"The rollout of v{row.version.version} is cancelled.")

    def _delete(self, options: dict[str, Any]) -> None:
        service = _service(options)
        serving = deployment_serving(service)
        what = f", which serves v{serving.version.version}" if serving else ""
        confirm(
            f"Delete the service {service.name} of {service.project} in {service.region} with its "
            f"revisions and the job {service.name}-migrate{what}",
            options["yes"],
        )
        live.service_remove(service, by=system_user())
        self.stdout.write(f"The service {service.name} is deleted.")


def _service(options: dict[str, Any]) -> CloudService:
    return service_find(options["service"], options["project"], options["region"])
