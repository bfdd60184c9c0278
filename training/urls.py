"""Addresses of the API of training runs."""

from django.urls import path

from training.api import RunCancelView, RunLogView, RunsView, RunView

urlpatterns = [
    path("training-runs", RunsView.as_view(), name="training-runs"),
    path("training-runs/<uuid:run_id>", RunView.as_view(), name="training-run"),
    path("training-runs/<uuid:run_id>/log", RunLogView.as_view(), name="training-run-log"),
    path("training-runs/<uuid:run_id>/cancel", RunCancelView.as_view(), name="training-run-cancel"),
]
