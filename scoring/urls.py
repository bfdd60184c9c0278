"""Addresses of the scoring API."""

from django.urls import path

from scoring.api import (
    HealthView,
    LabelsView,
    ModelsView,
    ModelView,
    OutcomesView,
    PredictView,
    ScoreBatchView,
    ScoreView,
)

urlpatterns = [
    path("score", ScoreView.as_view(), name="score"),
    path("score/batch", ScoreBatchView.as_view(), name="score-batch"),
    path("outcomes", OutcomesView.as_view(), name="outcomes"),
    path("labels", LabelsView.as_view(), name="labels"),
    path("models", ModelsView.as_view(), name="models"),
    path("models/<slug:name>", ModelView.as_view(), name="model"),
    path("models/<slug:name>/predict", PredictView.as_view(), name="predict"),
    path("health", HealthView.as_view(), name="health"),
]
