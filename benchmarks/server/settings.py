"""The settings of the measured server: those of production, and one empty view to compare with."""

from sentinelle.settings import *  # noqa: F403

ROOT_URLCONF = "benchmarks.server.urls"
