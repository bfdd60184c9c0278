"""Addresses of the scoring API."""

urlpatterns: list = []
