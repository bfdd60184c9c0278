"""What goes into the image, and the scripts around it, without building it."""

import re
import subprocess
import sys
from pathlib import Path

from deployments.gcp.builds import BASE_DIR, build_step, source, source_files
from deployments.gcp.grants import Names

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NAMES = Names("test-project", "europe-west1", "test-project-ml-data", "sentinelle-training")
FOLDERS = {"deployments", "engine", "scoring", "sentinelle", "templates", "training"}


def rules_of_dockerignore() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_nothing_goes_into_the_image_but_the_program() -> None:
    rules = rules_of_dockerignore()
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert let_in == FOLDERS | {"requirements.txt", "manage.py", "gunicorn.conf.py"}
    assert all((ROOT / name).exists() for name in let_in)
    assert rules[-2:] == ["**/__pycache__", "**/.env*"]


def test_every_folder_with_code_goes_in() -> None:
    tracked = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"templates"}
    assert tracked - {"tests", "benchmarks"} == FOLDERS


def test_the_source_of_a_build_is_what_the_image_is_made_of(tmp_path: Path) -> None:
    names = {file.relative_to(BASE_DIR).as_posix() for file in source_files(BASE_DIR)}
    assert {"Dockerfile", ".dockerignore", "requirements.txt", "manage.py"} <= names
    assert "training/pipeline/job.py" in names
    assert "engine/default_rules.toml" in names
    assert [n for n in names if re.search(r"(^|/)(var|tests|\.env|\.git|__pycache__)", n)] == []
    assert len(source().archive) < 5_000_000


def test_a_secret_beside_the_code_stays_outside(tmp_path: Path) -> None:
    for name in ("Dockerfile", ".dockerignore", "manage.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "engine").mkdir()
    for name in (".env", "key.json", "engine/.env.local", "engine/scorer.py"):
        (tmp_path / name).write_text("x")
    found = {file.relative_to(tmp_path).as_posix() for file in source_files(tmp_path)}
    assert found == {"Dockerfile", ".dockerignore", "manage.py", "engine/scorer.py"}


def test_the_source_is_the_same_wherever_it_is_packed() -> None:
    first = source.__wrapped__(BASE_DIR)
    assert source.__wrapped__(BASE_DIR) == first
    assert re.fullmatch("[0-9a-f]{64}", first.digest)


def test_cloudbuild_yaml_builds_as_the_command_does() -> None:
    written = (ROOT / "cloudbuild.yaml").read_text()
    change = build_step(NAMES, source()).fix(None)
    assert change is not None
    assert change.request.body is not None
    step = change.request.body["steps"][0]
    assert f"name: {step['name']}" in written
    assert f'args: [{", ".join(step["args"][:2])}, "$_IMAGE", .]' in written
    assert f"timeout: {change.request.body['timeout']}" in written
    assert f"logging: {change.request.body['options']['logging']}" in written
    account = change.request.body["serviceAccount"].replace("test-project", "$PROJECT_ID")
    assert f"serviceAccount: {account}" in written


def test_the_image_runs_as_a_user_that_is_not_root() -> None:
    last = (ROOT / "Dockerfile").read_text().rpartition("FROM ")[2]
    assert re.search(r"^USER 10001$", last, re.M)
    assert re.search(r"^RUN useradd --uid 10001 ", last, re.M)
    assert "SECRET" not in last
    assert not re.search(r"gcc|build-essential|apt-get", last)


def test_hadolint_finds_nothing() -> None:
    run = subprocess.run(
        [BIN / "hadolint", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.stdout + run.stderr == ""


def test_shellcheck_finds_nothing_in_any_script() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [ROOT / name for name in listed.stdout.splitlines()]
    scripts = [file for file in files if file.is_file() and _is_script(file)]
    assert ROOT / ".ci/run" in scripts
    run = subprocess.run(
        [BIN / "shellcheck", *scripts], capture_output=True, text=True, check=False
    )
    assert run.stdout + run.stderr == ""


def _is_script(file: Path) -> bool:
    with file.open("rb") as content:
        return bool(re.match(rb"#!.*\b(ba|da)?sh\b", content.readline()))
