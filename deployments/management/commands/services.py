"""`manage.py services`: the Cloud Run services that score."""

import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.timezone import localtime

from deployments.gcp.errors import CloudError
from deployments.gcp.invokers import EVERYBODY, invokers
from deployments.gcp.limits import format_memory
from deployments.gcp.logs import LINES, Line, service_lines
from deployments.gcp.metrics import ROWS, ServiceMetrics, service_metrics, sparkline
from deployments.gcp.run_services import revisions_list, service_describe, service_list
from deployments.gcp.services import SHOWN, RevisionInfo, ServiceInfo, ServiceName
from deployments.management.base import SentinelleCommand
from deployments.management.service_changes import ServiceChanges

REVISIONS = 10
HOURS_MAX = 42 * 24  # as long as Cloud Monitoring keeps what Cloud Run measures
# Google lets itself be asked 60 times a minute for entries of logs.
FOLLOW_SECONDS = 4.0


class Command(ServiceChanges, SentinelleCommand):
    help = (
        "The Cloud Run services that score: what they are, what they log, how they are doing; a "
        "canary is promoted, a deployment rolled back, a size changed, a service deleted."
    )
    examples = """Examples:
  manage.py services list                              ours in the region
  manage.py services status sentinelle-ml-engine       its revisions, their shares, its health
  manage.py services logs sentinelle-ml-engine --follow
  manage.py services logs sentinelle-ml-engine --revision sentinelle-ml-engine-v1-1-0-b2 --limit 50
  manage.py services metrics sentinelle-ml-engine --hours 24
  manage.py services history                           what was deployed from here, and by whom
  manage.py services promote sentinelle-ml-engine --reason "same block rate after a day"
  manage.py services rollback sentinelle-ml-engine --reason "blocks twice as much"
  manage.py services update sentinelle-ml-engine --cpu 4 --memory 4Gi --env WEB_CONCURRENCY=4
  manage.py services cancel sentinelle-ml-engine       a rollout that goes on, or was interrupted
  manage.py services delete sentinelle-ml-engine

Project and region are those of GOOGLE_CLOUD_PROJECT and GOOGLE_CLOUD_REGION unless given."""

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        listed = verbs.add_parser("list", help="list our services of the region")
        status = verbs.add_parser("status", help="show a service and its revisions")
        logs = verbs.add_parser("logs", help="print what it logged, with its requests")
        metrics = verbs.add_parser("metrics", help="requests, times, errors, use of the machines")
        history = verbs.add_parser("history", help="what was deployed from here, and by whom")
        history.add_argument("service", nargs="?", default="", help="of this one alone")
        for verb in (listed, status, logs, metrics, history):
            add_place(verb, of_a_service=verb not in (listed, history))
        for verb in (logs, metrics):
            verb.add_argument("--revision", default="", help="of this revision alone")
        for verb in self.add_changes(verbs):
            add_place(verb)
        logs.add_argument("--limit", type=int, default=LINES, help="the last lines (%(default)s)")
        logs.add_argument("--follow", action="store_true", help="go on until Ctrl-C")
        metrics.add_argument("--hours", type=float, default=1.0, help="how far back (%(default)s)")

    def handle(self, **options: Any) -> None:
        if not options["project"] and options["verb"] != "history":
            raise CommandError(
                "Which project? Give --project, or set GOOGLE_CLOUD_PROJECT. `manage.py "
                "setup_cloud` makes one ready."
            )
        getattr(self, f"_{options['verb']}")(options)

    def _list(self, options: dict[str, Any]) -> None:
        services = service_list(options["project"], options["region"])
        for service in services:
            state = f"not as asked: {service.problem}" if service.problem else service.url
            self.stdout.write(
                f"{service.name:<32} {version_of(service.env):<10} {service.cpu} vCPU "
                f"{format_memory(service.memory_mb):>6}  {len(service.traffic)} revisions  {state}"
            )
        if not services:
            self.stdout.write(
                f"There is no service of ours in {options['region']} of {options['project']}. "
                "`manage.py deploy_ml_engine` makes one."
            )

    def _status(self, options: dict[str, Any]) -> None:
        name = service_name(options)
        service = service_describe(name)
        self._show(service, name)
        self.stdout.write("")
        found = revisions_list(name)
        wanted = {one.revision for one in service.wanted}
        shown = [one for at, one in enumerate(found) if at < REVISIONS or one.name in wanted]
        for row in _aligned([_revision_row(service, one) for one in shown]):
            self.stdout.write(row)
        for one in shown:
            if one.message:
                self.stdout.write(f"\n{one.name}: {one.message}")

    def _logs(self, options: dict[str, Any]) -> None:
        name, revision = service_name(options), options["revision"]
        lines = service_lines(name, revision=revision, last=options["limit"])
        self._print(lines)
        if not lines:
            # A name that is not there has no log either.
            service_describe(name)
            self.stdout.write(f"{name.service} has logged nothing in 30 days.")
        try:
            while options["follow"]:
                time.sleep(FOLLOW_SECONDS)
                since = lines[-1].at if lines else timezone.now() - timedelta(minutes=1)
                new = service_lines(name, revision=revision, last=None, since=since)
                self._print(new)
                lines = new or lines
        except KeyboardInterrupt:
            self.stdout.write("")

    def _metrics(self, options: dict[str, Any]) -> None:
        if not 0 < options["hours"] <= HOURS_MAX:
            raise CommandError(
                f"--hours is {options['hours']:g}; expected more than 0, and at most {HOURS_MAX} "
                "(6 weeks, as long as Google keeps them)."
            )
        name, until = service_name(options), timezone.now()
        found = service_metrics(
            name,
            since=until - timedelta(hours=options["hours"]),
            until=until,
            revision=options["revision"],
        )
        if found.is_empty:
            service_describe(name)
        self.stdout.write(found.summary)
        if found.is_empty:
            return
        begin, end = (localtime(at) for at in (found.times[0], found.times[-1]))
        self.stdout.write(
            f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, {found.step_s // 60} min a point"
        )
        for row in _aligned(_metric_rows(found)):
            self.stdout.write(row)

    def _show(self, service: ServiceInfo, name: ServiceName) -> None:
        rows = [("service", service.name), ("project", name.project), ("region", name.region)]
        rows += [("url", service.url), ("callers", _callers(name))]
        rows += [(title, written(getattr(service, field))) for title, field, written in SHOWN]
        rows += [(f"env {key}", value) for key, value in service.env.items()]
        rows += [(f"secret {key}", str(secret)) for key, secret in service.secrets.items()]
        health = "being changed" if service.is_changing else service.problem or "as asked"
        rows.append(("state", health))
        for title, value in rows:
            self.stdout.write(f"{title:<20} {value or 'by default'}")

    def _print(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self.stdout.write(str(line))


def add_place(parser: CommandParser, *, of_a_service: bool = True) -> None:
    """Add which service it is."""
    if of_a_service:
        parser.add_argument("service", help="its name, such as sentinelle-ml-engine")
    parser.add_argument("--project", default=settings.GOOGLE_CLOUD_PROJECT, help="its ID")
    parser.add_argument("--region", default=settings.GOOGLE_CLOUD_REGION, help="%(default)s")


def service_name(options: dict[str, Any]) -> ServiceName:
    """The service that the options of `add_place` name."""
    return ServiceName(options["project"], options["region"], options["service"])


def version_of(env: dict[str, str]) -> str:
    """The version that a container serves."""
    version = env.get("MODEL_VERSION", "").removeprefix("v")
    return f"v{version}" if version[:1].isdigit() else version or "latest"


def _callers(name: ServiceName) -> str:
    """Who may call it, or why that is not known: to read it takes a right of its own."""
    try:
        members = invokers(name)
    except CloudError as error:
        if error.reason != "permission":
            raise
        return "not known: to read them takes the right run.services.getIamPolicy"
    if EVERYBODY in members:
        return "everybody"
    return ", ".join(members) or "who has roles/run.invoker on the project"


def _revision_row(service: ServiceInfo, revision: RevisionInfo) -> list[str]:
    share = service.of(revision.name)
    created = f"{localtime(revision.created_at):%Y-%m-%d %H:%M}" if revision.created_at else ""
    return [
        revision.name, version_of(revision.env), revision.state, f"{share.percent} %", created,
        share.url,
    ]  # fmt: skip


def _metric_rows(found: ServiceMetrics) -> list[list[str]]:
    rows = [["", "last", "mean", "most", ""]]
    for title, field, written in ROWS:
        series = getattr(found, field)
        values = [value for value in series if value is not None]
        if values:
            told = (values[-1], sum(values) / len(values), max(values))
            rows.append([title, *map(written, told), sparkline(series)])
        else:
            rows.append([title, "-", "-", "-", ""])
    return rows


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines, each column as wide as it must be."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))] if rows else []
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows]  # fmt: skip
