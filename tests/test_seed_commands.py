"""docs/scripts.md has every command of the documents that Sentinelle began with, and what it names
exists and takes the options that it is given."""

import re
import shlex
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class
from django.urls import resolve

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/scripts.md").read_text()
P, R = "--project=sentinelle-485209", "--region=europe-west1"
BUCKET = "gs://sentinelle-485209-ml-data/artifacts"
EXECUTIONS = "gcloud run jobs executions"
ENGINE = "gcloud run services update sentinelle-ml-engine"
VM = "ml-training-vm --zone=us-central1-a"
ADDRESS = "https://sentinelle-ml-engine-xxx.run.app"
TRAINING = (
    './scripts/deploy-training-job.sh "sentinelle-485209" "sentinelle-training" "europe-west1" '
    '"1.0.0"',
    './scripts/run-training-cloud.sh "sentinelle-485209" "sentinelle-training" "europe-west1" '
    '"1.0.0"',
    f"gcloud run jobs execute sentinelle-training {R} {P}",
    f'{EXECUTIONS} list --job=sentinelle-training {R} {P} --limit=1 '
    '--format="value(metadata.name)"',
    f"{EXECUTIONS} logs tail $EXECUTION {R} {P}",
    f"{EXECUTIONS} logs read $EXECUTION {R} {P}",
    f"{EXECUTIONS} logs read <EXECUTION_NAME> {R} {P}",
    f"gcloud run jobs update sentinelle-training {R} --cpu=16 --memory=16Gi {P}",
    f"gcloud run jobs update sentinelle-training {R} "
    f'--set-env-vars="VERSION=1.1.0,BUCKET_NAME=sentinelle-485209-ml-data" {P}',
    f"gsutil ls -r {BUCKET}/",
    f"gsutil ls {BUCKET}/v1.0.0/",
    f"gsutil -m cp -r {BUCKET}/v1.0.0/ ./artifacts/",
    f"gsutil -m cp -r {BUCKET}/v1.1.0/ ./artifacts/",
    "gcloud projects get-iam-policy sentinelle-485209",
    f'echo -n "VOTRE_MOT_DE_PASSE" | gcloud secrets create db-password --data-file=- {P}',
    "8 vCPU × 2700 s × $0.00002400 + 8 GB × 2700 s × $0.00000250",
    "2 vCPU × 0.2 s × $0.00002400 + 2 GB × 0.2 s × $0.00000250",
    "git clone and python3 train_model.py on the machine",
    f"gcloud compute instances describe {VM}",
    f"gcloud compute instances stop {VM}",
    f"gcloud compute instances delete {VM}",
    f'gcloud compute ssh {VM} --command="tail -f /var/log/syslog"',
    "SSH and ls -la",
)  # fmt: skip
SERVING = (
    './scripts/deploy-ml-engine.sh "sentinelle-485209" "sentinelle-ml-engine" "europe-west1" '
    '"1.0.0"',
    './scripts/deploy-ml-engine.sh "sentinelle-485209" "sentinelle-ml-engine" "europe-west1" '
    '"1.1.0"',
    f"curl {ADDRESS}/health",
    f"curl -X POST {ADDRESS}/score -H \"Content-Type: application/json\" -d '{{...}}'",
    "TOKEN=$(gcloud auth print-identity-token)",
    f'curl -H "Authorization: Bearer $TOKEN" {ADDRESS}/score',
    f"{ENGINE} {R} --no-allow-unauthenticated {P}",
    f"{ENGINE} {R} --cpu=4 --memory=4Gi {P}",
    f'{ENGINE} {R} --set-env-vars="MODEL_VERSION=1.1.0,ARTIFACTS_DIR=/app/artifacts" {P}',
    f'{ENGINE} --set-secrets="DB_PASSWORD=db-password:latest" {R} {P}',
    f"gcloud run services list {R} {P}",
    f"gcloud run services logs read sentinelle-ml-engine {R} {P} --limit=100",
)


def table() -> dict[str, str]:
    """What was before, and what is now, of every row."""
    rows = re.findall(r"^\| (.+?) (?<!\\)\| (.+) \|$", PAGE, re.M)
    plain = {before.replace("`", "").replace("\\|", "|"): now for before, now in rows}
    return {before: now for before, now in plain.items() if before != "before"}


def ours(text: str) -> list[str]:
    return re.findall(r"`manage\.py ([^`]+)`", text)


def test_the_table_has_every_command_and_no_other() -> None:
    assert sorted(table()) == sorted((*TRAINING, *SERVING))


@pytest.mark.parametrize("before", TRAINING, ids=range(len(TRAINING)))
def test_every_command_about_training_has_an_equivalent(before: str) -> None:
    now = table()[before]
    assert ours(now) or now == "the same"


@pytest.mark.parametrize("before", SERVING, ids=range(len(SERVING)))
def test_a_command_about_serving_has_an_equivalent_or_needs_none(before: str) -> None:
    now = table()[before]
    assert now.startswith(("`manage.py ", "the same", "nothing to do: `")), now
    for address in re.findall(r"`(/\w+)`", now) if now.startswith("the same") else ():
        assert resolve(address)


def test_every_setting_named_is_one() -> None:
    known = (ROOT / "docs/operations.md").read_text()
    named = re.findall(r"`([A-Z][A-Z_]+)`", PAGE)
    assert [name for name in named if f"`{name}`" not in known] == []


@pytest.mark.parametrize("written", sorted(set(ours(PAGE))))
def test_the_command_takes_what_it_is_given(written: str) -> None:
    name, *arguments = shlex.split(written)
    command = load_command_class(get_commands()[name], name)
    # Raises CommandError, with what is wrong, for an option that it does not have.
    command.create_parser("manage.py", name).parse_args(arguments)
