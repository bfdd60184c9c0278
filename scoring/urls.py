"""Addresses of the scoring API."""

from django.urls import path

from scoring.api import HealthView, OutcomesView, ScoreView

urlpatterns = [
    path("score", ScoreView.as_view(), name="score"),
    path("outcomes", OutcomesView.as_view(), name="outcomes"),
    path("health", HealthView.as_view(), name="health"),
]
