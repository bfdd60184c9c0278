"""Clients of Google's APIs, made when they are used and once a process.

With `GOOGLE_API_ENDPOINT` set they talk to that address instead of Google's, as
`STORAGE_EMULATOR_HOST` does for objects in storage. No two APIs that are used here share a path
(`address`), so one server there can answer for all of them and none needs a prefix.

Credentials are the application's default ones
(https://cloud.google.com/docs/authentication/application-default-credentials); `GCE_METADATA_HOST`
tells where they come from on a machine that is not Google's.
"""

import os
from functools import lru_cache
from typing import Any

from django.conf import settings


def run_jobs() -> Any:
    """`google.cloud.run_v2.JobsClient`."""
    from google.cloud import run_v2

    return _client(os.getpid(), run_v2.JobsClient, "rest")


def run_executions() -> Any:
    """`google.cloud.run_v2.ExecutionsClient`."""
    from google.cloud import run_v2

    return _client(os.getpid(), run_v2.ExecutionsClient, "rest")


def run_services() -> Any:
    """`google.cloud.run_v2.ServicesClient`."""
    from google.cloud import run_v2

    return _client(os.getpid(), run_v2.ServicesClient, "rest")


def run_revisions() -> Any:
    """`google.cloud.run_v2.RevisionsClient`."""
    from google.cloud import run_v2

    return _client(os.getpid(), run_v2.RevisionsClient, "rest")


def instances() -> Any:
    """`google.cloud.compute_v1.InstancesClient`. Use its `…_unary` methods and wait by
    `zone_operations`: the other form polls Google whatever the endpoint."""
    from google.cloud import compute_v1

    return _client(os.getpid(), compute_v1.InstancesClient, "rest")


def zone_operations() -> Any:
    """`google.cloud.compute_v1.ZoneOperationsClient`."""
    from google.cloud import compute_v1

    return _client(os.getpid(), compute_v1.ZoneOperationsClient, "rest")


def logging(project: str) -> Any:
    """`google.cloud.logging.Client`, over HTTP: it needs no gRPC channel in a worker that forks."""
    return _logging(os.getpid(), project)


def session() -> Any:
    """An `AuthorizedSession` of google-auth, for calls that are not worth a client library."""
    return _session(os.getpid())


def address(api: str, path: str) -> str:
    """The URL of `path` (`v1/projects/p`) at an API, named as in its address (`storage`)."""
    return f"{settings.GOOGLE_API_ENDPOINT or f'https://{api}.googleapis.com'}/{path}"


@lru_cache(maxsize=16)
def _client(_pid: int, kind: Any, transport: str) -> Any:
    return kind(transport=transport, client_options=_options())


@lru_cache(maxsize=4)
def _logging(_pid: int, project: str) -> Any:
    from google.cloud import logging

    make: Any = logging.Client
    return make(project=project, _use_grpc=False, client_options=_options())


def _options() -> Any:
    from google.api_core.client_options import ClientOptions

    endpoint = settings.GOOGLE_API_ENDPOINT
    return ClientOptions(api_endpoint=endpoint) if endpoint else None


@lru_cache(maxsize=1)
def _session(_pid: int) -> Any:
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    return AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
