"""Put the function that serves a classifier on Google Cloud."""

import re
from argparse import ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from deployments.gcp import functions
from deployments.gcp.functions import Deployed, FunctionSpec
from deployments.gcp.grants import ARTIFACTS, BUILDS, Names
from deployments.gcp.limits import parse_memory
from deployments.management import cloud
from deployments.management.base import SentinelleCommand
from deployments.management.cloud import carry_out, confirm, named, print_calls
from engine.champions import read_champion
from engine.classifier.definition import MODEL_NAME
from engine.classifier.request import ORIGIN
from engine.errors import InvalidBundle, NoModel, SentinelleError
from engine.store import open_store

NOT_ALLOWED = (401, 403)


class Command(SentinelleCommand):
    help = (
        "Deploy the function that serves a classifier's champion from the bucket: set the project "
        "up, upload the function's source, have Google build it, and ask it which version it "
        "serves. What is there already is skipped."
    )
    examples = """Examples:
  manage.py deploy_function my-project sponsor-ai europe-west1
  manage.py deploy_function my-project churn-ai europe-west1 --model churn --memory 1Gi
  manage.py deploy_function my-project sponsor-ai europe-west1 --allow-unauthenticated \\
      --origins https://shop.example
  manage.py deploy_function my-project sponsor-ai europe-west1 --dry-run

Who calls it needs the role Cloud Run Invoker, unless --allow-unauthenticated lets everybody in; the
next deployment without it takes that back. Options that are not given leave what the function has.
It notices a newer champion by itself: promote one, and it serves it within a minute.

Exit status: 0 done, 1 refused or no answer, 2 wrong usage, 130 interrupted; then start it again:
it goes on."""

    def add_arguments(self, parser: CommandParser) -> None:
        new = functions.DEFAULTS
        parser.add_argument("project", help="the project's ID")
        parser.add_argument("name", help="name of the function, such as sponsor-ai")
        parser.add_argument("region", help="such as europe-west1")
        parser.add_argument("--bucket", help="by default PROJECT-ml-data")
        parser.add_argument(
            "--model", type=_model, help=f"the classifier to serve (new: {new.model})"
        )
        parser.add_argument(
            "--memory", type=_memory, help=f"such as 1Gi (new: {new.memory_mb}Mi), at least 256Mi"
        )
        parser.add_argument(
            "--timeout",
            type=_between(1, 3600),
            metavar="SECONDS",
            help=f"of one request (new: {new.timeout_s})",
        )
        parser.add_argument(
            "--max-instances",
            type=_between(1, 1000),
            metavar="N",
            help=f"at most so many at once (new: {new.max_instances})",
        )
        parser.add_argument(
            "--origins",
            type=_origins,
            help="of pages that may call it, with commas between, such as https://shop.example; "
            "* for all, '' for none (new: none)",
        )
        parser.add_argument(
            "--allow-unauthenticated", action="store_true", help="let everybody call it"
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
            job=settings.TRAINING_JOB,
            function=options["name"],
        )
        spec = FunctionSpec(
            model=options["model"],
            memory_mb=options["memory"],
            timeout_s=options["timeout"],
            max_instances=options["max_instances"],
            origins=options["origins"],
        )
        made_of = functions.function_source()
        before, after = functions.function_steps(names, spec, made_of)
        if options["dry_run"]:
            print_calls(self, before)
            self.stdout.write(f"\n# the function's source, to gs://{names.bucket}/{BUILDS}/")
            print_calls(self, after)
            return
        public = options["allow_unauthenticated"]
        everybody = ", open to everybody" if public else ""
        confirm(
            f"Deploy {names.function} to the project {names.project}{everybody}", options["yes"]
        )
        carry_out(self, before)
        functions.upload_function_source(names, made_of)
        carry_out(self, after)
        function = functions.deployed(names)
        if functions.let_in(function, public):
            told = "everybody may call it" if public else "nobody may call it without the role"
            self.stdout.write(f"access: {told}")
        self.stdout.write(f"URL: {function.url}")
        self._check(names, function)

    def _check(self, names: Names, function: Deployed) -> None:
        """Ask the function, and tell which version serves or what keeps it from that."""
        health = functions.function_health(function, waits=cloud.WAITS)
        if health.status == 200:
            version = health.says["model_version"]
            self.stdout.write(self.style.SUCCESS(f"{version} of {function.model} serves."))
        elif health.status in NOT_ALLOWED:
            self.stdout.write(
                self.style.WARNING(
                    "You may not call it yourself, so it was not asked which version it serves. "
                    f"Give yourself the role: gcloud run services add-iam-policy-binding "
                    f"{function.service.service} --member=user:YOU --role=roles/run.invoker "
                    f"--region={names.region} --project={names.project}"
                )
            )
        elif health.says.get("code") == "NO_MODEL" and not self._has_champion(names, function):
            self.stdout.write(
                self.style.WARNING(
                    f"It serves nothing yet: no version of “{function.model}” is promoted in "
                    f"gs://{names.bucket}/{ARTIFACTS}. Promote one: manage.py promote "
                    f"{function.model} VERSION"
                )
            )
        else:
            said = health.says.get("detail") or "no answer of the function itself; see its log"
            raise CommandError(f"The function is deployed and answers {health.status}: {said}")

    def _has_champion(self, names: Names, function: Deployed) -> bool:
        try:
            read_champion(open_store(f"gs://{names.bucket}/{ARTIFACTS}"), function.model)
        except NoModel:
            return False
        except InvalidBundle:
            return True
        return True


def _model(text: str) -> str:
    if not re.fullmatch(MODEL_NAME, text):
        raise ArgumentTypeError(f"“{text}” is no name of a classifier, such as sponsor")
    return text


def _origins(text: str) -> str:
    for origin in filter(None, map(str.strip, text.split(","))):
        if origin != "*" and not re.fullmatch(ORIGIN, origin):
            raise ArgumentTypeError(
                f"“{origin}” is no origin such as https://shop.example, in lower case and without "
                "a path"
            )
    return text


def _memory(text: str) -> int:
    try:
        memory_mb = parse_memory(text)
    except SentinelleError as error:
        raise ArgumentTypeError(error.detail) from None
    if not 256 <= memory_mb <= 32_768:
        raise ArgumentTypeError(f"{text} is not between 256Mi and 32Gi")
    return memory_mb


def _between(low: int, high: int) -> Any:
    def whole(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ArgumentTypeError(f"“{text}” is no whole number from {low} to {high}")
        return int(text)

    return whole
