"""`manage.py artifacts`: list, pull, push and verify the bundles of the artefact store."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from deployments import selectors
from deployments.management.base import SentinelleCommand, ShownProgress
from deployments.models import ModelVersion
from deployments.stored_bundles import (
    bundle_fault,
    bundle_pull,
    bundle_push,
    bundles_found,
    bundles_listed,
)


class Command(SentinelleCommand):
    help = (
        "Bundles: the folders that versions are served from, in ARTIFACTS_DIR (a folder, or a "
        "bucket). They are never written over."
    )
    examples = """\
examples:
  manage.py artifacts list                        versions beside what is stored, with sizes
  manage.py artifacts pull fraud 1.2.0 ./v1.2.0   copy a bundle here, every digest checked
  manage.py artifacts push ./v1.2.0               put a bundle into the store, at fraud/v1.2.0
  manage.py artifacts push var/artifacts          put all that a machine has into the bucket
  manage.py artifacts verify fraud 1.2.0          read every file and check its digest
  manage.py artifacts verify --all                the same for every version

verify ends with exit status 1 when anything is wrong, and says which file of which version.
push skips what is there already with the same content, so an interrupted one is started again."""

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        verbs.add_parser("list", help="list what is registered and what is stored")
        pull = verbs.add_parser("pull", help="copy a version's bundle into a new folder")
        push = verbs.add_parser("push", help="copy bundles of this machine into the store")
        verify = verbs.add_parser("verify", help="read every file and check its digest")
        pull.add_argument("model", help="the model's name, such as fraud")
        pull.add_argument("version", help="a registered version, such as 1.2.0")
        pull.add_argument("folder", type=Path, metavar="FOLDER", help="new, or empty")
        push.add_argument(
            "folders",
            type=Path,
            nargs="+",
            metavar="FOLDER",
            help="a bundle, or above several",
        )
        verify.add_argument("model", nargs="?", help="the model's name")
        verify.add_argument("version", nargs="?", help="one of its versions; else all of them")
        verify.add_argument("--all", action="store_true", help="every version of every model")

    def handle(self, *_args: Any, **options: Any) -> None:
        getattr(self, f"_{options['verb']}")(**options)

    def _list(self, **_: Any) -> None:
        listed = bundles_listed()
        for each in listed:
            updated = f"{each.updated:%Y-%m-%d %H:%M}" if each.updated else "-"
            line = (
                f"{each.location:<32} {_megabytes(each.size):>10}  {each.files:>2} files  "
                f"{updated:<16}  {each.state}"
            )
            self.stdout.write(line if each.state == "ok" else self.style.WARNING(line))
        total = _megabytes(sum(each.size for each in listed))
        self.stdout.write(f"{len(listed)} bundles, {total}, in {settings.ARTIFACTS_DIR}")

    def _pull(self, *, model: str, version: str, folder: Path, **_: Any) -> None:
        row = selectors.version_by_semver(selectors.model_by_name(model), version)
        shown = _Files(self)
        try:
            files = bundle_pull(row, folder, shown)
        finally:
            shown.end()
        self.stdout.write(
            f"{model} v{row.version} is in {folder}: {len(files)} files, each with its digest."
        )

    def _push(self, *, folders: list[Path], **_: Any) -> None:
        for folder in bundles_found(folders):
            shown = _Files(self)
            try:
                pushed = bundle_push(folder, shown)
            finally:
                shown.end()
            done = "was there already" if pushed.was_there else "is stored and verified"
            hint = "" if pushed.is_registered else " (no version of the registry is served from it)"
            self.stdout.write(f"{folder}: {pushed.location} {done}{hint}.")

    def _verify(self, *, model: str | None, version: str | None, **options: Any) -> None:
        if (model is None) != options["all"]:
            raise CommandError("Name a model, with or without a version, or give --all.")
        wrong = 0
        for row in _versions(model, version):
            fault = bundle_fault(row)
            wrong += bool(fault)
            name = f"{row.model.name} v{row.version}"
            said = self.style.ERROR(f"{name}: {fault}") if fault else f"{name}: ok"
            self.stdout.write(said)
        if wrong:
            raise CommandError(f"{wrong} of the bundles are not what was registered.")


def _versions(model: str | None, version: str | None) -> list[ModelVersion]:
    rows = ModelVersion.objects.select_related("model").order_by("model__name", "pk")
    if model is None:
        return list(rows)
    registered = selectors.model_by_name(model)
    if version is None:
        return list(rows.filter(model=registered))
    return [selectors.version_by_semver(registered, version)]


class _Files(ShownProgress):
    """Progress file by file."""

    def __call__(self, step: str, *progress: Any) -> None:
        done, total = progress
        super().__call__(step, done / total if total else 1.0, _megabytes(total))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
