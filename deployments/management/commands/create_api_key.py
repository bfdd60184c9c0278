"""`manage.py create_api_key`: make a key for a caller."""

from typing import Any

from django.core.management.base import CommandParser

from deployments import selectors, services
from deployments.management.base import SentinelleCommand, system_user
from deployments.models import Scope

_SCOPES = "\n".join(f"  {value:<8} {label}" for value, label in Scope.choices)


class Command(SentinelleCommand):
    help = (
        "Make an API key and print it. It is shown this once: only its digest is kept. "
        "The key alone goes to standard output, so that a script can take it."
    )
    examples = f"""\
scopes:
{_SCOPES}

examples:
  manage.py create_api_key "wallet backend"
  manage.py create_api_key "case desk" --scope read labels
  KEY=$(manage.py create_api_key probe --scope score)

Send it as `Authorization: Api-Key KEY`. Keys are revoked in the admin."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="who uses it, such as “wallet backend”")
        parser.add_argument(
            "--scope",
            nargs="+",
            action="extend",
            choices=Scope.values,
            metavar="SCOPE",
            help="what it may do: " + ", ".join(Scope.values) + " (default: score)",
        )

        parser.add_argument(
            "--if-none", action="store_true", help="do nothing where a key was ever made"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["if_none"] and selectors.any_api_key():
            return
        key, plain_key = services.api_key_create(
            name=options["name"],
            scopes=options["scope"] or [Scope.SCORE.value],
            created_by=system_user(),
        )
        self.stderr.write(f"{key.name} may: {', '.join(key.scopes)}. Keep the key, it is not kept:")
        self.stdout.write(plain_key)
