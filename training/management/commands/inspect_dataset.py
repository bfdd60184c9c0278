"""Say what is in a file, and propose how to import it."""

import argparse
from pathlib import Path
from typing import Any

import msgspec
from django.core.management.base import CommandError

from deployments.management.base import SentinelleCommand, ShownProgress
from training.inspection_text import report
from training.pipeline.inspection import Inspection, inspect_file
from training.pipeline.mapping import read_mapping
from training.pipeline.presets import load_preset, preset_names


class Command(SentinelleCommand):
    help = (
        "Say what is in a CSV (also gzipped) or Parquet file, and propose a mapping to import it."
    )
    examples = """Examples:
  manage.py inspect_dataset cards.csv.gz --out card.toml
  manage.py inspect_dataset cards.csv.gz --mapping card.toml
  manage.py inspect_dataset paysim.csv.gz --preset paysim --json

Nothing is imported. What it can't hold in memory goes to TMPDIR, where temporary files are."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE")
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--mapping", type=Path, metavar="FILE", help="read it by this one")
        how.add_argument("--preset", choices=preset_names(), help="read it by this one")
        parser.add_argument("--out", type=Path, help="write the proposed mapping to this new file")
        parser.add_argument("--json", action="store_true", help="everything as JSON, for programs")

    def handle(self, **options: Any) -> None:
        out: Path | None = options["out"]
        if out is not None and (options["mapping"] or options["preset"]):
            raise CommandError("--out is for a proposed mapping, not for one that was given.")
        if out is not None and out.exists():
            raise CommandError(f"{out} exists already; --out writes a new file.")
        inspection = self._inspect(options)
        if options["json"]:
            self.stdout.write(msgspec.json.encode(inspection).decode())
        else:
            self.stdout.write("\n".join(report(inspection)))
        if out is not None:
            out.write_text(inspection.mapping, encoding="utf-8")
            if not options["json"]:
                self.stdout.write(self.style.SUCCESS(f"The proposed mapping is in {out}."))

    def _inspect(self, options: dict[str, Any]) -> Inspection:
        mapping = None
        if options["mapping"] is not None:
            mapping = read_mapping(options["mapping"])
        elif options["preset"] is not None:
            mapping = load_preset(options["preset"])
        if options["json"]:
            return inspect_file(options["file"], mapping)
        progress = ShownProgress(self)
        try:
            return inspect_file(options["file"], mapping, progress)
        finally:
            progress.end()
