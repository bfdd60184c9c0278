"""Refuses a request that is too large before its body is stored."""

from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.files.uploadhandler import FileUploadHandler

# What a form sends beside its file.
REST_BYTES = 1_000_000


class SizeLimit(FileUploadHandler):
    """The first of FILE_UPLOAD_HANDLERS: by the length that the request announces. A server that
    takes requests without one (in chunks) gives them an empty body."""

    def handle_raw_input(
        self,
        input_data: Any,  # noqa: ARG002
        META: dict[str, Any],  # noqa: ARG002
        content_length: int,
        boundary: str,  # noqa: ARG002
        encoding: str | None = None,  # noqa: ARG002
    ) -> None:
        """Raises RequestDataTooBig, a 400."""
        if content_length > settings.UPLOAD_MAX_MB * 1_000_000 + REST_BYTES:
            raise RequestDataTooBig(
                f"The request has {content_length / 1e6:,.0f} MB; a file may have "
                f"{settings.UPLOAD_MAX_MB:,} (UPLOAD_MAX_MB)."
            )

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes:  # noqa: ARG002
        """Leave the data to the handlers after this one."""
        return raw_data

    def file_complete(self, file_size: int) -> None:
        """Leave the file to the handlers after this one."""
