"""The HTTP door: translate in, one call, translate out. The contract is docs/api.md."""

from collections.abc import Iterable
from typing import Any, ClassVar, cast

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from gunicorn.http.errors import ParseException
from rest_framework.exceptions import ParseError, UnsupportedMediaType
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.permissions import AllowAny
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from deployments.models import Scope
from engine.errors import BodyTooLarge, FieldError, SentinelleError
from engine.json_faults import invalid_request
from engine.transaction import decode_score_requests
from scoring import predictions, selectors, services
from scoring.authentication import ApiKeyAuthentication, Caller, HasScope, KeyRateThrottle
from scoring.labels import decode_labels, labels_record
from scoring.live_model import live_model

JSON = "application/json"
DRY_RUN = "dry_run"
_ENCODER = msgspec.json.Encoder()


class OnlyJson(BaseContentNegotiation):
    """There is one representation, so `Accept` has nothing to choose (RFC 9110, 12.4.1)."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:  # noqa: ARG002
        """The one parser there is."""
        return next(iter(parsers))

    def select_renderer(
        self,
        request: Request,  # noqa: ARG002
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,  # noqa: ARG002
    ) -> tuple[BaseRenderer, str]:
        """The one renderer there is."""
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


class JsonView(APIView):
    """A view that reads its body itself: msgspec decodes and validates in one step."""

    authentication_classes = [ApiKeyAuthentication]
    permission_classes = [HasScope]
    throttle_classes = [KeyRateThrottle]
    content_negotiation_class = OnlyJson

    max_body: ClassVar[int] = 1_000_000
    """In bytes."""

    def body(self, request: HttpRequest) -> bytes:
        """The body; raises UnsupportedMediaType when it is not declared as JSON, BodyTooLarge, and
        ParseError when it ends early."""
        if request.content_type != JSON:
            told = f"The body is {request.content_type or 'of no type'}; expected {JSON}."
            raise UnsupportedMediaType(request.content_type or "", told)
        # Django reads what Content-Length announces, which is nothing for a body sent in chunks.
        in_chunks = "HTTP_TRANSFER_ENCODING" in request.META
        stream = request.META["wsgi.input"] if in_chunks else request
        try:
            body: bytes = stream.read(self.max_body + 1)
        except (OSError, ParseException):
            raise ParseError("The body ended early, or its chunks are malformed.") from None
        if len(body) > self.max_body:
            raise BodyTooLarge(f"The body is larger than {self.max_body:,} bytes.")
        return body

    @staticmethod
    def answer(value: object, status: int = 200) -> HttpResponse:
        """A JSON answer."""
        return HttpResponse(_ENCODER.encode(value), content_type=JSON, status=status)


class ScoreView(JsonView):
    """`POST /score`: decide one transaction."""

    required_scope = Scope.SCORE.value

    def post(self, request: Request) -> HttpResponse:
        """Answer the decision, or the one that was given before."""
        is_dry = _is_dry_run(request)
        body = self.body(request._request)
        scored = services.score(body, timezone.now(), is_kept=not is_dry)
        response = self.answer(scored.answer)
        if scored.is_replay:
            response["Idempotent-Replayed"] = "true"
        if is_dry:
            response["Dry-Run"] = "true"
        return response


def _is_dry_run(request: Request) -> bool:
    """Whether nothing is to be kept; raises InvalidRequest for neither true nor false."""
    if not request.META.get("QUERY_STRING"):
        return False
    asked = request.GET.getlist(DRY_RUN)
    if asked in ([], ["false"]):
        return False
    if asked != ["true"]:
        raise invalid_request([FieldError(DRY_RUN, "expected true or false")])
    return True


class ScoreBatchView(JsonView):
    """`POST /score/batch`: decide up to 1,000 transactions, each on its own."""

    required_scope = Scope.SCORE.value
    max_body = 4_000_000

    def post(self, request: Request) -> HttpResponse:
        """Answer a decision or a problem for each, in the order given."""
        if DRY_RUN in request.GET:
            fault = "a batch is always kept; send one transaction to /score for a dry run"
            raise invalid_request([FieldError(DRY_RUN, fault)])
        items = decode_score_requests(self.body(request._request))
        throttle = KeyRateThrottle()
        if not throttle.allow_batch(request, len(items)):
            self.throttled(request, throttle.wait())
        results = services.score_batch(items, timezone.now())
        return self.answer({"results": [self._result(result) for result in results]})

    def _result(self, result: services.Scored | SentinelleError) -> dict[str, Any]:
        if isinstance(result, SentinelleError):
            handler = self.get_exception_handler()
            response = handler(result, self.get_exception_handler_context())
            return {"status": response.status_code, "error": response.data}
        answered = {"status": 200, "answer": result.answer}
        return answered | {"replayed": True} if result.is_replay else answered


class PredictView(JsonView):
    """`POST /models/NAME/predict`: ask a classifier."""

    required_scope = Scope.SCORE.value

    def post(self, request: Request, name: str) -> HttpResponse:
        """Answer the likeliest class, or what was answered to this idempotency key before."""
        predicted = predictions.predict(
            name,
            self.body(request._request),
            key=request.headers.get("Idempotency-Key"),
            caller=cast(Caller, request.user).name,
            now=timezone.now(),
        )
        response = HttpResponse(predicted.answer, content_type=JSON)
        if predicted.is_replay:
            response["Idempotent-Replayed"] = "true"
        return response


class ModelsView(JsonView):
    """`GET /models`: what is registered."""

    required_scope = Scope.READ.value

    def get(self, request: Request) -> HttpResponse:  # noqa: ARG002
        """Answer every model, by name."""
        return self.answer({"results": selectors.models_described()})


class ModelView(JsonView):
    """`GET /models/NAME`: how a model is asked, and what serves."""

    required_scope = Scope.READ.value

    def get(self, request: Request, name: str) -> HttpResponse:  # noqa: ARG002
        """Answer one model, a classifier with its inputs and classes."""
        return self.answer(selectors.model_described(name))


class OutcomesView(JsonView):
    """`POST /outcomes`: how transactions ended."""

    required_scope = Scope.SCORE.value

    def post(self, request: Request) -> HttpResponse:
        """Answer how many reports were new."""
        receipt = services.outcomes_record(self.body(request._request), timezone.now())
        return self.answer(receipt._asdict())


class LabelsView(JsonView):
    """`POST /labels`: whether transactions were fraud."""

    required_scope = Scope.LABELS.value
    max_body = 4_000_000

    def post(self, request: Request) -> HttpResponse:
        """Answer how many labels were new, and which transactions are unknown."""
        sent = decode_labels(self.body(request._request))
        caller = cast(Caller, request.user)
        receipt = labels_record(sent, stated_by=caller.name, now=timezone.now())
        return self.answer(receipt._asdict())


class HealthView(JsonView):
    """`GET /health`: whether this process can decide."""

    authentication_classes = []
    permission_classes = [AllowAny]
    throttle_classes = []

    def get(self, request: Request) -> HttpResponse:  # noqa: ARG002
        """Answer 200 or 503 with the reason."""
        health = live_model.health()
        loaded = health.model_version is not None
        body = {
            "status": "unhealthy" if health.reason else "healthy",
            "model_version": health.model_version,
            "supervised_loaded": loaded,
            "unsupervised_loaded": loaded,
        }
        if health.reason:
            body["reason"] = health.reason
        return self.answer(body, status=503 if health.reason else 200)
