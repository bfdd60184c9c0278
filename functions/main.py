"""The champion of one classifier as a Cloud Function: `functions-framework --target predict`.

POST /            the inputs as a JSON object; the answer of POST /models/NAME/predict
GET /, /health    which version serves

Needs the bucket and neither a database nor Django. It records nothing. Environment:

MODEL_NAME             the classifier's name (default: sponsor)
BUCKET_NAME            the bucket with its bundles in artifacts/, or
ARTIFACTS_DIR          where they are: gs://bucket/prefix or a folder
CORS_ALLOWED_ORIGINS   origins of pages that may call it, with commas between; * for all
CHAMPION_CHECK_SECONDS how often it looks for a newer champion (default: 30)
"""

import json
import logging
import os
import re
import time
from http import HTTPStatus
from typing import Any

import flask
import functions_framework
import msgspec
from werkzeug.exceptions import ClientDisconnected

from engine.classifier.definition import MODEL_NAME
from engine.classifier.live import CHECK_SECONDS, LiveChampion
from engine.classifier.request import MAX_BODY, ORIGIN, decode_inputs
from engine.errors import BodyTooLarge, InvalidRequest, SentinelleError
from engine.store import open_store

STORE_SECONDS = 20.0
RETRY_AFTER = "5"
METHODS = "GET, HEAD, OPTIONS, POST"
STATUS_OF_CODE = {
    "INVALID_REQUEST": 400,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "BODY_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "INTERNAL_ERROR": 500,
    "NO_MODEL": 503,
    "STORE_UNAVAILABLE": 503,
}
"""As in the API (sentinelle/problems.py)."""


class JsonLines(logging.Formatter):
    """What Cloud Logging takes apart: a JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"severity": record.levelname, "message": super().format(record)})


class Problem(SentinelleError):
    """An error of HTTP that the engine has no name for."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code  # type: ignore[misc]


def artifacts_dir() -> str:
    """Where the bundles are; raises SystemExit when the environment does not say it."""
    bucket = os.environ.get("BUCKET_NAME", "")
    found = os.environ.get("ARTIFACTS_DIR") or (f"gs://{bucket}/artifacts" if bucket else "")
    if not found:
        raise SystemExit("Neither BUCKET_NAME nor ARTIFACTS_DIR is set: where are the bundles?")
    return found


def model_name() -> str:
    """The classifier to serve; raises SystemExit for what is no name."""
    name = os.environ.get("MODEL_NAME") or "sponsor"
    if not re.fullmatch(MODEL_NAME, name):
        raise SystemExit(f"MODEL_NAME is “{name}”; expected a classifier's name, such as sponsor.")
    return name


def allowed_origins() -> frozenset[str]:
    """The origins that pages may call from; raises SystemExit for what is none."""
    given = os.environ.get("CORS_ALLOWED_ORIGINS", "")
    origins = [each.strip() for each in given.split(",") if each.strip()]
    for origin in origins:
        if origin != "*" and not re.fullmatch(ORIGIN, origin):
            raise SystemExit(
                f"CORS_ALLOWED_ORIGINS has “{origin}”; expected an origin such as "
                "https://shop.example, in lower case and without a path, or *."
            )
    return frozenset(origins)


def check_seconds() -> float:
    """How often a newer champion is looked for; raises SystemExit for what is no number."""
    given = os.environ.get("CHAMPION_CHECK_SECONDS", "") or str(CHECK_SECONDS)
    if not re.fullmatch(r"\d+(\.\d+)?", given):
        raise SystemExit(f"CHAMPION_CHECK_SECONDS is “{given}”; expected seconds, such as 30.")
    return float(given)


def json_log() -> logging.Logger:
    """Our log, as JSON lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    log = logging.getLogger("engine")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    return log


logger = json_log()
origins = allowed_origins()
champion = LiveChampion(
    open_store(artifacts_dir(), seconds=STORE_SECONDS),
    model_name(),
    check_seconds=check_seconds(),
)


@functions_framework.http
def predict(request: flask.Request) -> flask.Response:
    """Answer one request."""
    try:
        response = respond(request)
    except SentinelleError as error:
        response = problem(error)
    except Exception:
        logger.exception("A request failed")
        response = problem(Problem("INTERNAL_ERROR", "Something failed here. It was logged."))
    response.headers["Cache-Control"] = "no-store"
    allow_origin(request, response)
    return response


def respond(request: flask.Request) -> flask.Response:
    """Raises SentinelleError."""
    if request.path not in ("/", "/health"):
        raise Problem("NOT_FOUND", f"There is nothing at {request.path}.")
    if request.method == "OPTIONS":
        return flask.Response(status=204, headers={"Allow": METHODS})
    if request.method in ("GET", "HEAD"):
        return health()
    if request.method != "POST" or request.path != "/":
        raise Problem("METHOD_NOT_ALLOWED", f"{request.method} is not allowed on {request.path}.")
    inputs = decode_inputs(body(request))
    return answer(champion.get(time.monotonic()).predict(inputs))


def health() -> flask.Response:
    """Which version serves; raises NoModel, StoreUnavailable."""
    bundle = champion.get(time.monotonic())
    return answer(
        {
            "status": "healthy",
            "model": champion.model,
            "model_version": f"v{bundle.manifest.version}",
            "manifest_sha256": bundle.manifest_sha256,
        }
    )


def body(request: flask.Request) -> bytes:
    """The body; raises Problem, BodyTooLarge, InvalidRequest."""
    if request.mimetype != "application/json":
        raise Problem(
            "UNSUPPORTED_MEDIA_TYPE",
            f"The body is {request.mimetype or 'of no type'}; expected application/json.",
        )
    data = bytearray()
    too_large = False
    try:
        # To its end, however long it is: who is answered while they send does not see the answer.
        while block := request.stream.read(1 << 16):
            too_large = too_large or len(data) + len(block) > MAX_BODY
            if not too_large:
                data += block
    except (OSError, ClientDisconnected):
        raise InvalidRequest("The body ended early, or its chunks are malformed.") from None
    if too_large:
        raise BodyTooLarge(f"The body is larger than {MAX_BODY:,} bytes.")
    return bytes(data)


def answer(value: Any, status: int = 200, kind: str = "application/json") -> flask.Response:
    """A JSON answer."""
    return flask.Response(msgspec.json.encode(value), status=status, content_type=kind)


def problem(error: SentinelleError) -> flask.Response:
    """The answer to an error: RFC 9457, as in the API."""
    status = STATUS_OF_CODE.get(error.code, 500)
    told: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.detail,
        "code": error.code,
    }
    if error.errors:
        told["errors"] = [{"field": each.field, "message": each.message} for each in error.errors]
    response = answer(told, status, "application/problem+json")
    if status == 503:
        response.headers["Retry-After"] = RETRY_AFTER
    if status == 405:
        response.headers["Allow"] = METHODS
    return response


def allow_origin(request: flask.Request, response: flask.Response) -> None:
    """Tell a browser whether the page that calls may read the answer (CORS)."""
    origin = request.headers.get("Origin", "")
    if origins != {"*"}:
        response.headers["Vary"] = "Origin"
    if not origin or not {origin, "*"} & origins:
        return
    response.headers["Access-Control-Allow-Origin"] = "*" if "*" in origins else origin
    response.headers["Access-Control-Expose-Headers"] = "Retry-After"
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        response.headers["Access-Control-Allow-Methods"] = "GET, POST"
        response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        response.headers["Access-Control-Max-Age"] = "3600"
