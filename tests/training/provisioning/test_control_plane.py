"""Sentinelle itself on Google: made, made again, interrupted, and what its containers are told."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from deployments.gcp import setup
from deployments.gcp.control_plane import MIGRATE, program_steps
from deployments.gcp.errors import CloudError
from deployments.standing import Size, table
from tests.google.control import ControlApi
from tests.google.messages import written
from tests.google.run import RunApi
from tests.google.server import GoogleServer
from tests.google.services import ServicesApi
from tests.google.setup import ProjectApi
from tests.training.provisioning.conftest import IMAGE, PARENT, QUICK
from tests.training.provisioning.test_setup_cloud import (
    NAMES,
    ONCE,
    OPTIONS,
    ROOT,
    printed_calls,
    without_polls,
)
from training.provisioning import setup_steps

WITH_DATABASE = NAMES._replace(database="sentinelle")
WEB, WORKERS = f"{PARENT}/services/sentinelle", f"{PARENT}/workerPools/sentinelle-workers"


def run_command(*options: str) -> str:
    out = io.StringIO()
    given = [*OPTIONS, "--control-plane", "--image", IMAGE, *options]
    call_command("setup_cloud", *given, stdout=out, stderr=out)
    return out.getvalue()


def steps(image: str = IMAGE) -> list[setup.Step]:
    names = WITH_DATABASE
    return [*setup_steps(names, image), *program_steps(names, Size(), image)]


def carry_out(waits: Any = QUICK, image: str = IMAGE, from_step: int = 0) -> list[setup.Done]:
    return list(setup.apply(steps(image)[from_step:], lambda step, words: None, waits))


def container(thing: Any) -> dict[str, Any]:
    box: dict[str, Any] = written(thing)["template"]["containers"][0]
    return box


def test_a_dry_run_prints_every_call_that_the_real_run_then_makes(
    google: GoogleServer, migrations: list[list[str]]
) -> None:
    printed = printed_calls(run_command("--dry-run"))
    assert google.calls == []
    run_command("--yes")
    assert printed == without_polls(google.calls)
    assert len(printed) > 60


def test_the_image_is_built_when_none_is_named(
    google: GoogleServer,
    project: ProjectApi,
    control: ControlApi,
    bucket: str,
    services: ServicesApi,
    migrations: list[list[str]],
) -> None:
    out = io.StringIO()
    call_command(
        "setup_cloud", *OPTIONS, "--control-plane", "--bucket", bucket, "--yes", stdout=out
    )
    (image,) = project.builds[0]["images"]
    assert container(services.services[WEB])["image"] == image
    assert container(control.pools[WORKERS])["image"] == image


def test_what_it_costs_is_said_before_anything_is_made(
    google: GoogleServer, monkeypatch: Any
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    out = io.StringIO()
    with pytest.raises(CommandError, match="Nobody is here to answer; give --yes"):
        call_command("setup_cloud", *OPTIONS, "--control-plane", "--image", IMAGE, stdout=out)
    assert google.calls == []
    assert re.search(r"together, used or not +\$122\.82 a month", out.getvalue())
    assert "Those of europe-west1 are not known here" in out.getvalue()


def test_a_price_that_is_not_known_is_said_so() -> None:
    text = table(Size(tier="db-perf-optimized-N-2"), "us-central1")
    assert re.search(r"db-perf-optimized-N-2, 10 GB +not known a month", text)
    assert "at least $71.81" in text
    assert "Those of" not in text


def test_a_second_run_changes_nothing_and_a_new_image_migrates_first(
    google: GoogleServer,
    project: ProjectApi,
    control: ControlApi,
    services: ServicesApi,
    migrations: list[list[str]],
) -> None:
    carry_out()
    before = project.state(), control.state(), [*services.services]
    assert [done.step.title for done in carry_out() if done.change] == []
    assert (project.state(), control.state(), [*services.services]) == before
    assert migrations == [["python", *MIGRATE]]
    changed = [done.step.title for done in carry_out(image="example.com/new:2") if done.change]
    assert changed == [
        "Cloud Run job sentinelle-training", "Cloud Run job sentinelle-manage", "migrations",
        "Cloud Run service sentinelle", "Cloud Run worker pool sentinelle-workers",
    ]  # fmt: skip
    assert len(migrations) == 2
    assert container(services.services[WEB])["image"] == "example.com/new:2"


def test_what_somebody_changed_by_hand_stays_unless_it_is_needed(
    google: GoogleServer, control: ControlApi, services: ServicesApi, migrations: list[list[str]]
) -> None:
    carry_out()
    service = services.services[WEB]
    service.template.containers[0].resources.limits["memory"] = "4Gi"
    control.pools[WORKERS].scaling.manual_instance_count = 0
    settings = control.sql["sentinelle"]["settings"]
    settings.update(tier="db-custom-2-7680", deletionProtectionEnabled=False, userLabels={"t": "r"})
    changed = {done.step.title: done.change.words for done in carry_out() if done.change}
    assert changed == {
        "Cloud SQL instance sentinelle": "changed: deletionProtectionEnabled, userLabels",
        "Cloud Run worker pool sentinelle-workers": "changed: scaling",
    }
    assert settings["tier"] == "db-custom-2-7680"
    assert settings["userLabels"] == {"t": "r", "app": "sentinelle"}
    carry_out(image="example.com/new:2")
    assert container(services.services[WEB])["resources"]["limits"]["memory"] == "4Gi"


@pytest.mark.parametrize("how", ["drop", "late"])
def test_interrupted_at_any_call_it_goes_on(
    how: str,
    google: GoogleServer,
    project: ProjectApi,
    control: ControlApi,
    run: RunApi,
    services: ServicesApi,
    migrations: list[list[str]],
) -> None:
    """At each call of the control plane's own in turn, the connection is lost."""
    done = carry_out()
    whole, values = control.state(), dict(project.values)
    ours = next(at for at, each in enumerate(done) if each.step.title.startswith("network"))
    start_over(project, control, services, run)
    google.calls.clear()
    carry_out(from_step=ours)
    for at in sorted(set(without_polls(google.calls))):
        if how == "late" and at.startswith("GET"):
            continue
        start_over(project, control, services, run)
        google.fault(f"^{re.escape(at)}$", how)
        with pytest.raises(CloudError):
            carry_out(ONCE, from_step=ours)
        google.calm()
        carry_out(from_step=ours)
        assert control.state() == whole, at
        assert project.values == values, at


def start_over(
    project: ProjectApi, control: ControlApi, services: ServicesApi, run: RunApi
) -> None:
    """Delete what the control plane has made."""
    for things in (control.sql, control.databases, control.users, control.redis, control.pools,
                   services.services, run.jobs, run.executions):  # fmt: skip
        things.clear()
    project.values.pop("sentinelle-redis-url", None)


def test_secrets_are_never_shown_nor_in_the_environment(
    google: GoogleServer,
    project: ProjectApi,
    control: ControlApi,
    services: ServicesApi,
    migrations: list[list[str]],
) -> None:
    shown = run_command("--dry-run") + run_command("--yes")
    assert control.users == {"sentinelle": project.values["sentinelle-db-password"][0]}
    redis = "redis://:p4ss-of-redis@10.20.30.4:6379/0"
    assert project.values["sentinelle-redis-url"] == [redis]
    everything = shown + json.dumps(
        [written(services.services[WEB]), written(control.pools[WORKERS])]
    )
    values = [value for values in project.values.values() for value in values]
    assert len(values) == 3
    assert not any(value in everything for value in (*values, "p4ss-of-redis"))


def test_its_containers_are_told_all_that_production_needs(
    google: GoogleServer,
    control: ControlApi,
    services: ServicesApi,
    migrations: list[list[str]],
    tmp_path: Path,
) -> None:
    """The image's own check of settings, with the variables of the web's container."""
    carry_out()
    env = {item["name"]: item.get("value", "") for item in container(services.services[WEB])["env"]}
    keys = {
        item["name"]: item["valueSource"]["secretKeyRef"]["secret"]
        for item in container(services.services[WEB])["env"]
        if item.get("valueSource")
    }
    assert keys == {
        "SECRET_KEY": "sentinelle-secret-key", "DB_PASSWORD": "sentinelle-db-password",
        "REDIS_URL": "sentinelle-redis-url",
    }  # fmt: skip
    env |= {"SECRET_KEY": "k7-" + "".join(chr(97 + n % 26) for n in range(60)),
            "DB_PASSWORD": "x", "REDIS_URL": "redis://:x@10.20.30.4:6379/0"}  # fmt: skip
    platform = {"K_SERVICE": "sentinelle", "PORT": "8080"}
    platform |= {name: os.environ[name] for name in ("PATH", "NUMBA_CACHE_DIR")}
    result = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        env={**env, **platform, "SENTINELLE_HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    template = written(control.pools[WORKERS])["template"]
    assert template["containers"][0]["args"][1] == "sentinelle.serve"
    assert template["volumes"][0]["cloudSqlInstance"]["instances"] == [
        "test-project:europe-west1:sentinelle"
    ]
    assert template["vpcAccess"]["egress"] == "PRIVATE_RANGES_ONLY"


def test_a_project_without_the_network_is_told_how_to_make_it(
    google: GoogleServer, control: ControlApi
) -> None:
    control.has_network = False
    with pytest.raises(CloudError, match="gcloud compute networks create default"):
        carry_out(ONCE)


def test_a_database_elsewhere_is_refused(google: GoogleServer, control: ControlApi) -> None:
    control.sql["sentinelle"] = {"region": "us-east1", "settings": {}}
    with pytest.raises(CloudError, match=r"is in us-east1, not in europe-west1.*--database"):
        carry_out(ONCE)


def test_a_migration_that_fails_stops_before_anything_serves(
    google: GoogleServer,
    control: ControlApi,
    services: ServicesApi,
    migrations: list[list[str]],
    run: RunApi,
) -> None:
    run.images = {"another"}
    with pytest.raises(CloudError):
        carry_out(ONCE)
    assert (control.pools, services.services) == ({}, {})
