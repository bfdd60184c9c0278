"""Addresses of the scoring API."""

from django.urls import path

from scoring.api import HealthView, LabelsView, OutcomesView, ScoreView

urlpatterns = [
    path("score", ScoreView.as_view(), name="score"),
    path("outcomes", OutcomesView.as_view(), name="outcomes"),
    path("labels", LabelsView.as_view(), name="labels"),
    path("health", HealthView.as_view(), name="health"),
]
