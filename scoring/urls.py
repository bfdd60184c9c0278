"""Addresses of the scoring API."""

from django.urls import path

from scoring.api import HealthView, LabelsView, OutcomesView, ScoreBatchView, ScoreView

urlpatterns = [
    path("score", ScoreView.as_view(), name="score"),
    path("score/batch", ScoreBatchView.as_view(), name="score-batch"),
    path("outcomes", OutcomesView.as_view(), name="outcomes"),
    path("labels", LabelsView.as_view(), name="labels"),
    path("health", HealthView.as_view(), name="health"),
]
