"""Where Django keeps what people upload and download in the admin."""

import os
from pathlib import Path
from typing import Any

FOLDER = "uploads"


def storages(bucket: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The setting STORAGES: a folder of this machine, or `uploads/` in a bucket."""
    default: dict[str, Any] = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(folder)},
    }
    if bucket:
        default = {
            "BACKEND": "storages.backends.gcloud.GoogleCloudStorage",
            "OPTIONS": {
                "bucket_name": bucket,
                "location": FOLDER,
                # Objects belong to a bucket; the project is only asked for by the client.
                "project_id": os.environ.get("GOOGLE_CLOUD_PROJECT") or "unused",
                "file_overwrite": False,
                # A local server signs nothing.
                "querystring_auth": "STORAGE_EMULATOR_HOST" not in os.environ,
                # Larger files are sent in chunks that are tried again one by one.
                "blob_chunk_size": 8 << 20,
                # Larger ones go to the disk while they are read.
                "max_memory_size": 8 << 20,
            },
        }
    return {
        "default": default,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
