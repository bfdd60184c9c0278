"""`manage.py jobs`: the Cloud Run job that trains, and its executions."""

import re
import time
from argparse import ArgumentTypeError
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils.timezone import localtime

from deployments.gcp.containers import short
from deployments.gcp.executions import (
    ExecutionInfo,
    execution_cancel,
    execution_get,
    execution_list,
)
from deployments.gcp.limits import format_memory, job_limits, parse_memory
from deployments.gcp.logs import LINES, Line, execution_lines
from deployments.gcp.run_jobs import (
    NEW_JOB,
    SHOWN,
    JobInfo,
    JobName,
    JobSpec,
    job_create,
    job_delete,
    job_describe,
    job_list,
    job_update,
)
from deployments.management.base import SentinelleCommand
from deployments.management.cloud import confirm
from engine.errors import SentinelleError

# What the training program must not be given.
SECRETS = ("SECRET_KEY", "DATABASE_URL", "REDIS_URL")
FOLDERS = ("DATA_DIR", "ARTIFACTS_DIR", "BUCKET_NAME")
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
# Google lets itself be asked 60 times a minute for entries of logs.
FOLLOW_SECONDS = 4.0


class Command(SentinelleCommand):
    help = (
        "The Cloud Run job that trains, and its executions. `manage.py train --launcher cloud-run` "
        "makes the job by itself when it is not there; here people look at it and change its size."
    )
    examples = """Examples:
  manage.py jobs describe                          what the job is
  manage.py jobs update --cpu 4 --memory 16Gi      its size; what follows has it
  manage.py jobs update --timeout 4h --retries 0
  manage.py jobs update --image europe-west1-docker.pkg.dev/my-project/sentinelle/sentinelle:1.1.0
  manage.py jobs executions                        the newest first
  manage.py jobs logs                              of the newest execution
  manage.py jobs logs sentinelle-training-x7k2p --follow
  manage.py jobs cancel sentinelle-training-x7k2p
  manage.py jobs create --image IMAGE --service-account trainer@my-project.iam.gserviceaccount.com
  manage.py jobs delete --yes

Project, region and job are those of GOOGLE_CLOUD_PROJECT, GOOGLE_CLOUD_REGION and TRAINING_JOB
unless given. A training run is cancelled with `manage.py runs cancel`, which also books its end.

What Cloud Run allows ({date}):
{sizes}
  timeout 1 s to {days} days, each attempt; retries 0 to {retries}"""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        limits = job_limits()
        sizes = "\n".join(
            f"  {size.cpu} vCPU: {format_memory(size.memory_min_mb)} to "
            f"{format_memory(size.memory_max_mb)}"
            for size in limits.sizes
        )
        days = limits.timeout_max_s // 86_400
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.epilog = self.examples.format(
            date=limits.date, sizes=sizes, days=days, retries=limits.retries_max
        )
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        create = verbs.add_parser("create", help="create the job")
        update = verbs.add_parser("update", help="change the job; says what changed")
        describe = verbs.add_parser("describe", help="show the job")
        listed = verbs.add_parser("list", help="list the training jobs of the region")
        executions = verbs.add_parser("executions", help="list the job's executions")
        logs = verbs.add_parser("logs", help="print the log of an execution")
        cancel = verbs.add_parser("cancel", help="cancel an execution")
        delete = verbs.add_parser("delete", help="delete the job with its executions")
        for verb in (create, update, describe, listed, executions, logs, cancel, delete):
            _add_place(verb, of_a_job=verb is not listed)
        for verb in (create, update):
            _add_size(verb)
        executions.add_argument("--limit", type=int, default=20, help="%(default)s")
        logs.add_argument("execution", nargs="?", help="its name; by default the newest")
        logs.add_argument("--lines", type=int, default=LINES, help="the last ones (%(default)s)")
        logs.add_argument("--follow", action="store_true", help="go on until the execution ends")
        cancel.add_argument("execution", help="its name")
        delete.add_argument("--yes", action="store_true", help="don't ask")

    def handle(self, **options: Any) -> None:
        if not options["project"]:
            raise CommandError(
                "Which project? Give --project, or set GOOGLE_CLOUD_PROJECT. `manage.py "
                "setup_cloud` makes one ready."
            )
        getattr(self, f"_{options['verb']}")(options)

    def _create(self, options: dict[str, Any]) -> None:
        folders = {name: getattr(settings, name) for name in FOLDERS}
        here = [name for name in FOLDERS[:2] if not folders[name].startswith("gs://")]
        if here:
            raise CommandError(
                f"The job can't see {' and '.join(here)} of this machine: set BUCKET_NAME, so that "
                "they are in a bucket."
            )
        given = _spec(options).over(NEW_JOB)
        spec = given._replace(
            image=given.image or settings.TRAINING_IMAGE,
            service_account=given.service_account or settings.TRAINING_SERVICE_ACCOUNT,
            env=folders | dict(given.env),
        )
        self._show(job_create(_name(options), spec), options)

    def _update(self, options: dict[str, Any]) -> None:
        spec = _spec(options)
        if spec == JobSpec():
            raise CommandError("Change what? Give --cpu, --memory, --timeout, --retries, --image…")
        job, changes = job_update(_name(options), spec)
        for change in changes:
            self.stdout.write(f"{change.field}: {change.before} → {change.after}")
        if not changes:
            self.stdout.write(f"The job {job.name} is like that already.")
        if settings.TRAINING_IMAGE not in ("", job.image):
            self.stdout.write(
                f"TRAINING_IMAGE is {settings.TRAINING_IMAGE}: the next run puts that image back. "
                "Change the setting too."
            )

    def _describe(self, options: dict[str, Any]) -> None:
        self._show(job_describe(_name(options)), options)

    def _list(self, options: dict[str, Any]) -> None:
        jobs = job_list(options["project"], options["region"])
        for job in jobs:
            state = f"can't run: {job.problem}" if job.problem else job.image
            self.stdout.write(
                f"{job.name:<32} {job.cpu} vCPU {format_memory(job.memory_mb):>6}  "
                f"{job.execution_count:>4} executions  {state}"
            )
        if not jobs:
            self.stdout.write(
                f"There is no training job in {options['region']} of {options['project']}. The "
                "first run with --launcher cloud-run makes one; so does `manage.py jobs create`."
            )

    def _executions(self, options: dict[str, Any]) -> None:
        # In whatever order Google gives them.
        found = sorted(execution_list(_name(options)), key=_created, reverse=True)
        for execution in found[: options["limit"]]:
            self.stdout.write(_line(execution))
        if not found:
            self.stdout.write(f"The job {options['job']} was never executed.")

    def _logs(self, options: dict[str, Any]) -> None:
        execution = self._execution(options)
        lines = execution_lines(execution, last=options["lines"])
        self._print(lines)
        while options["follow"]:
            # Asked before the lines are read: what came before the end is then not missed.
            has_ended = execution_get(execution).has_ended
            since = lines[-1].at if lines else None
            new = execution_lines(execution, last=None, since=since)
            self._print(new)
            lines = new or lines
            if has_ended:
                break
            time.sleep(FOLLOW_SECONDS)
        if options["follow"] or not lines:
            self.stdout.write(_line(execution_get(execution)))

    def _cancel(self, options: dict[str, Any]) -> None:
        execution = self._execution(options)
        if execution_cancel(execution):
            self.stdout.write(f"{short(execution)} is being cancelled.")
            return
        state = execution_get(execution).state
        self.stdout.write(f"{short(execution)} has ended already: it is {state}.")

    def _delete(self, options: dict[str, Any]) -> None:
        confirm(f"Delete the job {options['job']} with its executions", options["yes"])
        job_delete(_name(options))
        self.stdout.write(f"The job {options['job']} is deleted.")

    def _show(self, job: JobInfo, options: dict[str, Any]) -> None:
        rows = [("job", job.name), ("project", options["project"]), ("region", options["region"])]
        rows += [(name, written(getattr(job, field))) for name, field, written in SHOWN]
        rows += [(f"env {name}", value) for name, value in job.env.items()]
        rows.append(("executions", str(job.execution_count)))
        if job.latest_execution:
            rows.append(("newest", short(job.latest_execution)))
        if job.problem:
            rows.append(("can't run", job.problem))
        for name, value in rows:
            self.stdout.write(f"{name:<18} {value or 'by default'}")

    def _execution(self, options: dict[str, Any]) -> str:
        """The full name of the execution that was given, or of the newest."""
        name = _name(options)
        if options["execution"]:
            return f"{name.full}/executions/{short(options['execution'])}"
        newest = job_describe(name).latest_execution
        if not newest:
            raise CommandError(f"The job {name.job} was never executed.")
        return newest

    def _print(self, lines: list[Line]) -> None:
        for line in lines:
            self.stdout.write(str(line))


def _add_place(parser: CommandParser, *, of_a_job: bool) -> None:
    parser.add_argument("--project", default=settings.GOOGLE_CLOUD_PROJECT, help="its ID")
    parser.add_argument("--region", default=settings.GOOGLE_CLOUD_REGION, help="%(default)s")
    if of_a_job:
        parser.add_argument("--job", default=settings.TRAINING_JOB, help="its name (%(default)s)")


def _add_size(parser: CommandParser) -> None:
    parser.add_argument("--image", help="the container image")
    parser.add_argument("--cpu", type=int, help="processors: 1, 2, 4, 6 or 8")
    parser.add_argument("--memory", type=_memory, metavar="SIZE", help="16Gi, or 16384 for MiB")
    parser.add_argument(
        "--timeout", type=_seconds, metavar="TIME", help="of each attempt: 7200, 90m or 2h"
    )
    parser.add_argument("--retries", type=int, help="after a failure, 0 to 10")
    parser.add_argument("--service-account", metavar="EMAIL", help="the account it runs as")
    parser.add_argument(
        "--env", type=_variable, action="append", default=[], metavar="NAME=VALUE",
        help="a variable of the job; may be repeated",
    )  # fmt: skip


def _name(options: dict[str, Any]) -> JobName:
    return JobName(options["project"], options["region"], options["job"])


def _spec(options: dict[str, Any]) -> JobSpec:
    return JobSpec(
        image=options["image"],
        cpu=options["cpu"],
        memory_mb=options["memory"],
        timeout_s=options["timeout"],
        retries=options["retries"],
        service_account=options["service_account"],
        env=dict(options["env"]),
    )


def _created(execution: ExecutionInfo) -> datetime:
    return execution.created_at or datetime.min.replace(tzinfo=UTC)


def _line(execution: ExecutionInfo) -> str:
    start, end = execution.started_at, execution.ended_at
    took = f"{(end - start).total_seconds():,.0f} s" if start and end else ""
    columns = (
        short(execution.name),
        f"{localtime(execution.created_at):%Y-%m-%d %H:%M}" if execution.created_at else "",
        f"{execution.state:<9}",
        f"{took:>8}",
        f"run {execution.run_id}" if execution.run_id else "by hand",
        "" if execution.state == "succeeded" else execution.message,
    )
    return "  ".join(columns).rstrip()


def _memory(text: str) -> int:
    try:
        return parse_memory(text)
    except SentinelleError as error:
        raise ArgumentTypeError(error.detail) from None


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)([smh]?)", text.strip())
    if match is None:
        raise ArgumentTypeError(f"“{text}” is no time; write 7200 for seconds, 90m or 2h")
    return int(match[1]) * UNITS[match[2]]


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ArgumentTypeError(f"“{text}” is not NAME=VALUE")
    if name in SECRETS:
        raise ArgumentTypeError(f"{name} is a secret, and the training program needs none")
    return name, value
