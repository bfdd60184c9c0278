from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandParser

from deployments.login import login_path


class Command(BaseCommand):
    help = (
        "Print a link that logs into the admin once, within three days. The user is made as a "
        "superuser without a password when there is none of that name."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", nargs="?", default="admin")

    def handle(self, *_args: Any, **options: Any) -> None:
        users = get_user_model().objects
        user = users.filter(username=options["username"]).first()
        if user is None:
            user = users.create_superuser(options["username"])
        # Behind a proxy only its operator knows the address that people use.
        is_local = not settings.HTTPS and settings.HOST in ("127.0.0.1", "localhost")
        site = f"http://{settings.HOST}:{settings.PORT}" if is_local else ""
        self.stdout.write(f"{site}{login_path(user)}")
