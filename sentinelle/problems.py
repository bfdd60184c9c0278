"""One error shape for every answer that is not a success: RFC 9457 problem details."""

import logging
from http import HTTPStatus
from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
)
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from rest_framework import exceptions
from rest_framework.response import Response

from engine.errors import FieldError, SentinelleError

logger = logging.getLogger(__name__)
CONTENT_TYPE = "application/problem+json"

# Every code that an answer may carry, with its status. Codes are stable: callers match on them.
STATUS_OF_CODE = {
    "INVALID_REQUEST": 400,
    "FUTURE_TRANSACTION": 400,
    "RUN_REFUSED": 400,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "UNKNOWN_TRANSACTION": 404,
    "UNKNOWN_RUN": 404,
    "UNKNOWN_MODEL": 404,
    "METHOD_NOT_ALLOWED": 405,
    "NOT_ACCEPTABLE": 406,
    "TRANSACTION_CONFLICT": 409,
    "OUTCOME_CONFLICT": 409,
    "RUN_CONFLICT": 409,
    "PREDICTION_CONFLICT": 409,
    "BODY_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "RATE_LIMITED": 429,
    "INTERNAL_ERROR": 500,
    "IDENTITY_UNAVAILABLE": 503,
    "NO_MODEL": 503,
    "STORE_UNAVAILABLE": 503,
    "DATABASE_UNAVAILABLE": 503,
}
# Errors of the database that no retry mends. A missing table is not among them: it is there once
# the migrations of a deployment have run.
_OUR_FAULTS = (DataError, IntegrityError)
_CODE_OF_STATUS = {
    400: "INVALID_REQUEST",
    401: "UNAUTHENTICATED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    406: "NOT_ACCEPTABLE",
    413: "BODY_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "RATE_LIMITED",
}


def problem(code: str, detail: str, errors: tuple[FieldError, ...] = ()) -> dict[str, Any]:
    """The body of a problem answer."""
    status = STATUS_OF_CODE[code]
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    if errors:
        body["errors"] = [{"field": error.field, "message": error.message} for error in errors]
    return body


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:  # noqa: ARG001
    """Translate what a view raised. Returns None for a fault of ours, which is then a plain 500."""
    headers: dict[str, str] = {}
    if isinstance(exc, SentinelleError) and exc.code in STATUS_OF_CODE:
        body = problem(exc.code, exc.detail, exc.errors)
    elif isinstance(exc, exceptions.APIException):
        code = _CODE_OF_STATUS.get(exc.status_code, "INVALID_REQUEST")
        body = problem(code, _detail(exc))
        if auth_header := getattr(exc, "auth_header", None):
            headers["WWW-Authenticate"] = auth_header
        if wait := getattr(exc, "wait", None):
            headers["Retry-After"] = str(int(wait) + 1)
    elif isinstance(exc, (Http404, SuspiciousOperation)):
        code = "NOT_FOUND" if isinstance(exc, Http404) else "INVALID_REQUEST"
        body = problem(code, "There is nothing here." if code == "NOT_FOUND" else "Refused.")
    elif isinstance(exc, (DatabaseError, InterfaceError)) and not isinstance(exc, _OUR_FAULTS):
        logger.exception("The database failed")
        body = problem("DATABASE_UNAVAILABLE", "The database could not serve the request.")
        headers["Retry-After"] = "1"
    else:
        return None
    response = Response(body, status=body["status"], headers=headers)
    response.content_type = CONTENT_TYPE
    return response


def _detail(exc: exceptions.APIException) -> str:
    return exc.detail if isinstance(exc.detail, str) else str(exc.detail)


def _plain(code: str, detail: str) -> HttpResponse:
    body = problem(code, detail)
    return JsonResponse(body, status=body["status"], content_type=CONTENT_TYPE)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001
    """handler404 of the whole site."""
    return _plain("NOT_FOUND", f"There is no page at {request.path}.")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001
    """handler400: a host that is not allowed, a malformed header."""
    return _plain("INVALID_REQUEST", "The request was refused before it reached a page.")


def server_error(request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """handler500: the log has the traceback, the answer never does."""
    return _plain("INTERNAL_ERROR", "Something failed on the server. It was logged.")
