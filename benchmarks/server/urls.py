"""The site's addresses and `/empty`: a DRF view that does nothing, behind the same middleware,
authentication, permission and throttle as `/score`."""

from django.urls import include, path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deployments.models import Scope
from scoring.authentication import ApiKeyAuthentication, HasScope, KeyRateThrottle


class EmptyView(APIView):
    """Answers nothing, to those who may score."""

    authentication_classes = [ApiKeyAuthentication]
    permission_classes = [HasScope]
    throttle_classes = [KeyRateThrottle]
    required_scope = Scope.SCORE.value

    def post(self, request: Request) -> Response:  # noqa: ARG002
        """An empty object."""
        return Response({})


urlpatterns = [path("empty", EmptyView.as_view()), path("", include("sentinelle.urls"))]
