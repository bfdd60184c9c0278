"""What the commands have in common."""

import getpass
from argparse import RawDescriptionHelpFormatter
from typing import Any, ClassVar

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)

from engine.errors import SentinelleError


class _Formatter(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the line breaks of the examples."""


class SentinelleCommand(BaseCommand):
    """A command that answers an error of its user with one line and exit status 1.

    `examples` follows the options in `--help`, as it is written.
    """

    examples: ClassVar[str] = ""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(
            prog_name, subcommand, formatter_class=_Formatter, epilog=self.examples, **kwargs
        )

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except SentinelleError as error:
            raise CommandError(error.detail) from error


class ShownProgress:
    """Shows progress: one line that moves on a terminal, a line for each step elsewhere."""

    def __init__(self, command: BaseCommand) -> None:
        self._out = command.stdout
        self._moving = bool(command.stdout.isatty())
        self._step = ""

    def __call__(self, step: str, fraction: float, details: str = "") -> None:
        """Show what is being done and the share of the whole that is, 0 to 1; on a terminal also
        details, which may change at every call."""
        if self._moving:
            self._out.write(f"\r\033[K{fraction:4.0%} {step} {details}".rstrip(), ending="")
            self._out.flush()
        elif step != self._step:
            self._out.write(step)
        self._step = step

    def end(self) -> None:
        """Leave the line."""
        if self._moving and self._step:
            self._out.write("")


def system_user() -> str:
    """Who runs the command, as the operating system knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name; OSError since Python 3.13
        return "command"
