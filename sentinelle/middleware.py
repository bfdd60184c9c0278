"""What happens to a request before Django's own middleware, and to its answer after it."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from scoring.api import HealthView


class ProbeMiddleware:
    """Answer `GET /health` at once: platforms probe over plain HTTP, by the instance's address,
    which neither the redirect to HTTPS nor `ALLOWED_HOSTS` would let through."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        self._health = HealthView.as_view()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """The health, or what the next in line answers."""
        if request.path_info == "/health" and request.method == "GET":
            return self._health(request)
        return self._get_response(request)


class ContentPolicyMiddleware:
    """Tell browsers to load nothing from elsewhere and to run no script that stands in a page."""

    POLICY = "; ".join(
        (
            "default-src 'none'",
            *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """The answer, with the policy when it is a page."""
        answer = self._get_response(request)
        if answer.get("Content-Type", "").startswith("text/html"):
            answer.headers.setdefault("Content-Security-Policy", self.POLICY)
        return answer
