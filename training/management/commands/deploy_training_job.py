"""Put the training program and its data on Google Cloud."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from deployments.gcp.grants import TRAINING, Names
from deployments.gcp.setup import Step
from deployments.management.base import ShownProgress
from deployments.management.cloud import (
    JobCommand,
    carry_out,
    confirm,
    named,
    print_calls,
)
from training import provisioning
from training.provisioning import Upload


class Command(JobCommand):
    help = (
        "Deploy the training job: set the project up, upload data sets, build the image with Cloud "
        "Build, and make or update the Cloud Run job. What is there already is skipped."
    )
    examples = """Examples:
  manage.py deploy_training_job my-project sentinelle-training europe-west1 1.0.0
  manage.py deploy_training_job my-project sentinelle-training europe-west1 1.0.0 \\
      --data Data/processed
  manage.py deploy_training_job my-project sentinelle-training europe-west1 1.0.0 --dry-run

Then train: manage.py run_training my-project sentinelle-training europe-west1 1.0.0

--data uploads files as they are, to gs://BUCKET/data/processed/, so that they are kept beside what
is made of them. To train on one, import it: manage.py import_dataset NAME FILE

Exit status: 0 done, 1 refused or no answer, 2 wrong usage, 130 interrupted; then start it again:
it goes on."""

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_places(parser)
        parser.add_argument(
            "--data",
            nargs="+",
            type=Path,
            default=[],
            metavar="PATH",
            help="folders or files to upload: CSV, also gzipped, or Parquet",
        )
        parser.add_argument("--image", help="one that is built already, instead of building it")
        parser.add_argument(
            "--dry-run", action="store_true", help="print every call instead of making any"
        )
        parser.add_argument("--yes", action="store_true", help="don't ask before it starts")

    def handle(self, **options: Any) -> None:
        names = named(
            project=options["project"],
            region=options["region"],
            bucket=options["bucket"],
            job=options["job"],
        )
        uploads = provisioning.files_to_upload(options["data"])
        image, build = options["image"], None
        if image is None:
            image, build = provisioning.image_step(names)
        steps = provisioning.setup_steps(names, image, options["version"])
        # The job's steps come last: it can be made when its image is there.
        before, job = steps[:-2], steps[-2:]
        if options["dry_run"]:
            self._print(names, before, uploads, [build] if build else [], job)
            return
        confirm(
            f"Deploy {names.job} to the project {names.project} in {names.region}", options["yes"]
        )
        carry_out(self, before)
        self._upload(names, uploads)
        if build is not None:
            provisioning.upload_source(names)
            carry_out(self, [build])
        carry_out(self, job)
        self._what_now(names, image, options["version"], uploads)

    def _print(
        self,
        names: Names,
        before: list[Step],
        uploads: list[Upload],
        build: list[Step],
        job: list[Step],
    ) -> None:
        print_calls(self, before)
        size = sum(upload.size for upload in uploads)
        folder = f"gs://{names.bucket}/{provisioning.UPLOADS}/"
        if uploads:
            self.stdout.write(f"\n# {len(uploads)} files, {size / 1e6:,.0f} MB, to {folder}:")
        for upload in uploads:
            self.stdout.write(f"upload {upload.path} {upload.size / 1e6:,.1f} MB")
        if build:
            self.stdout.write(f"\n# the source, to gs://{names.bucket}/builds/")
        print_calls(self, [*build, *job])

    def _upload(self, names: Names, uploads: list[Upload]) -> None:
        if not uploads:
            return
        shown = ShownProgress(self)
        try:
            sent = provisioning.upload_files(names.bucket, uploads, shown)
        finally:
            shown.end()
        kept = len(uploads) - sent
        self.stdout.write(f"{sent} files uploaded, {kept} were there already.")

    def _what_now(self, names: Names, image: str, version: str, uploads: list[Upload]) -> None:
        example = uploads[0].path if uploads else "FILE"
        self.stdout.write(
            f"""
Settings of your servers (docs/operations.md):
GOOGLE_CLOUD_PROJECT={names.project}
GOOGLE_CLOUD_REGION={names.region}
BUCKET_NAME={names.bucket}
TRAINING_JOB={names.job}
TRAINING_IMAGE={image}
TRAINING_SERVICE_ACCOUNT={names.account(TRAINING)}

With them:
manage.py import_dataset NAME {example}
manage.py run_training {names.project} {names.job} {names.region} {version} --dataset NAME --wait"""
        )
