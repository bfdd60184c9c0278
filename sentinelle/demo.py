"""`make demo`: from nothing to live decisions on this machine, each question and answer shown.

    python -m sentinelle.demo

Starts every process, simulates a data set, trains v1.0.0 in the worker, promotes it, sends
transactions over HTTP, then stays up. With DEMO_EXIT=1 it stops instead, with exit status 0 only
if every answer was as expected. What an earlier run made is used again.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import requests

from sentinelle.env import env_bool, env_int, env_str
from sentinelle.serve import BASE_DIR, local_home, manage, stop

ROWS = 200_000
SEED = 7
DATASET, VERSION = "demo", "1.0.0"
HEALTHY_IN_A_ROW = 20
BOLD, GREEN, RED, DIM, PLAIN = (
    ("\033[1m", "\033[32m", "\033[31m", "\033[2m", "\033[0m") if sys.stdout.isatty() else [""] * 5
)


class Question(NamedTuple):
    """One request of the demo and what its answer must be."""

    title: str
    body: dict[str, Any]
    expected: str
    status: int = 200
    decisions: tuple[str, ...] = ()
    mentions: str = ""

    def accepts(self, status: int, answer: dict[str, Any]) -> bool:
        if status != self.status or self.mentions not in json.dumps(answer):
            return False
        return not self.decisions or answer.get("decision") in self.decisions


def step(text: str) -> None:
    print(f"\n{BOLD}→ {text}{PLAIN}", flush=True)


@contextmanager
def server() -> Iterator[subprocess.Popen[bytes]]:
    """Every process of Sentinelle, ended with the block."""
    process = subprocess.Popen([sys.executable, "-m", "sentinelle.serve", "--demo"], cwd=BASE_DIR)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            print("The processes did not end within 30 s and were killed.", file=sys.stderr)


def wait_for_health(url: str, process: subprocess.Popen[bytes], *, healthy: bool) -> None:
    """Wait until the web server answers; with `healthy`, until each of its processes can decide."""
    in_a_row = 0
    for _ in range(600):
        if process.poll() is not None:
            sys.exit(process.returncode or 1)
        try:
            status = requests.get(f"{url}/health", timeout=2).status_code
        except requests.RequestException:
            status = None
        if status and not healthy:
            return
        # Any of the processes may have answered, and each follows a promotion within two seconds.
        in_a_row = in_a_row + 1 if status == 200 else 0
        if in_a_row == HEALTHY_IN_A_ROW:
            return
        time.sleep(0.1)
    stop(f"{url}/health did not become {'healthy' if healthy else 'reachable'} within 60 s.")


def show_and_manage(*arguments: str, must_succeed: bool = True) -> None:
    """Run one `manage.py` command, shown as a person would type it."""
    print(f"{DIM}$ manage.py {shlex.join(arguments)}{PLAIN}", flush=True)
    manage(*arguments, must_succeed=must_succeed)


def prepare_version() -> None:
    """Make what is missing: the data set, version 1.0.0, its promotion."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sentinelle.settings")
    import django

    django.setup()
    from deployments.models import Alias, ModelVersion
    from training.models import ACTIVE, Dataset, TrainingRun

    if not Dataset.objects.filter(name=DATASET).exists():
        step(f"Simulate {ROWS:,} transactions and import them as the data set “{DATASET}”")
        file = local_home().data / "demo.csv"
        show_and_manage("simulate", str(file), "--rows", str(ROWS), "--seed", str(SEED))
        show_and_manage("import_dataset", DATASET, str(file), "--preset", "canonical")
        file.unlink()
    # An earlier demo may have been killed in mid-training: its run ends first.
    runs = TrainingRun.objects.filter(model__name="fraud", version=VERSION, state__in=ACTIVE)
    for run in runs:
        step(f"Follow the run of v{VERSION} that an earlier demo began")
        show_and_manage("runs", "watch", str(run.pk), must_succeed=False)
    if not ModelVersion.objects.filter(model__name="fraud", version=VERSION).exists():
        step(f"Train v{VERSION} in the worker")
        show_and_manage("train", "--dataset", DATASET, "--version", VERSION, "--wait")
    if not Alias.objects.filter(model__name="fraud").exists():
        step(f"Promote v{VERSION}")
        show_and_manage("promote", "fraud", VERSION, "--reason", "First version of the demo")


def transaction(wallet: str, at: datetime, amount: float, to: str, **more: Any) -> dict[str, Any]:
    """A `/score` body of a wallet of the demo, active for a year."""
    return {
        "transaction": {
            "transaction_id": f"demo-{uuid.uuid4().hex[:12]}",
            "amount": amount,
            "currency": "PYC",
            "source_wallet_id": wallet,
            "destination_wallet_id": to,
            "transaction_type": "TRANSFER",
            "direction": "outgoing",
            "created_at": at.isoformat().replace("+00:00", "Z"),
            "country": "FR",
            "city": "Paris",
        }
        | more,
        "context": {
            "source_wallet": {"balance": 480.0, "status": "active", "account_age_minutes": 525600},
            "destination_wallet": {"status": "active"},
            "user": {"status": "active", "risk_level": "low"},
        },
    }


def send_history(url: str, wallet: str, day: datetime) -> None:
    """Twenty ordinary payments of the days before, so that the wallet has habits."""
    for n in range(20):
        at = day - timedelta(days=20 - n, hours=-12, minutes=7 * n)
        body = transaction(wallet, at, 12.5 + n % 7, f"shop-{n % 4}", transaction_type="PAYMENT")
        requests.post(f"{url}/score", json=body, timeout=10).raise_for_status()


def taken_over(wallet: str, begin: datetime, step: int, to: str) -> dict[str, Any]:
    """One of a thief's transfers, which empty the wallet every two minutes."""
    at = begin + timedelta(minutes=2 * step)
    body = transaction(wallet, at, 195.0, to, country="RO", city="Bucharest")
    body["context"]["source_wallet"]["balance"] = 600.0 - 195.0 * step
    return body


def questions(url: str) -> Iterator[Question]:
    """The demo's requests, in order; each has the past that it needs."""
    run = uuid.uuid4().hex[:6]
    wallet = f"wallet-{run}"
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    send_history(url, wallet, day)
    yield Question(
        "An ordinary payment: 14.90 to a known shop, at noon",
        transaction(wallet, day - timedelta(hours=12), 14.9, "shop-1", transaction_type="PAYMENT"),
        "APPROVE",
        decisions=("APPROVE",),
    )
    yield Question(
        "A transfer above the cap of rule R1 (300)",
        transaction(f"other-{run}", day - timedelta(hours=11), 450.0, "shop-1"),
        "BLOCK by a rule, the models not asked",
        decisions=("BLOCK",),
        mentions="RULE_MAX_AMOUNT",
    )
    afternoon = day + timedelta(hours=14, minutes=10)
    taken = [taken_over(wallet, afternoon, step, f"stranger-{run}") for step in range(3)]
    for body in taken[:-1]:
        requests.post(f"{url}/score", json=body, timeout=10).raise_for_status()
    yield Question(
        "The third large transfer within minutes to a payee never paid before, from abroad",
        taken[-1],
        "REVIEW or BLOCK, and the supervised model among the reasons",
        decisions=("REVIEW", "BLOCK"),
        mentions="MODEL_SUPERVISED_HIGH",
    )
    bad = transaction(wallet, day, 10.0, "shop-1")
    bad["transaction"] |= {"amount": "ten", "created_at": "yesterday"}
    del bad["transaction"]["currency"]
    yield Question(
        "A request with three faults",
        bad,
        "400 that names all three",
        status=400,
        mentions="transaction.currency",
    )


def ask(url: str, question: Question) -> bool:
    """Send one request, print question and answer, and say whether it was as expected."""
    step(question.title)
    print(f"POST {url}/score\n{json.dumps(question.body['transaction'], indent=2)}")
    response = requests.post(f"{url}/score", json=question.body, timeout=10)
    answer = response.json()
    print(f"{response.status_code} {json.dumps(answer, indent=2)}")
    good = question.accepts(response.status_code, answer)
    mark = f"{GREEN}✓ as expected" if good else f"{RED}✗ expected"
    print(f"{mark}: {question.expected}{PLAIN}", flush=True)
    return good


def main() -> int:
    port, leave = env_int("PORT", 8000, 1, 65535), env_bool("DEMO_EXIT", False)
    home = local_home()
    if home.exists and not home.is_demo:
        stop(f"{home.root} was made by `make run`. Set SENTINELLE_HOME to another folder.")
    url = f"http://{env_str('HOST', '127.0.0.1')}:{port}"
    with server() as process:
        wait_for_health(url, process, healthy=False)
        prepare_version()
        wait_for_health(url, process, healthy=True)
        results = [ask(url, question) for question in questions(url)]
        good = all(results)
        print(f"\n{sum(results)} of {len(results)} answers were as expected.", flush=True)
        if not leave:
            step(f"The admin, at {url}/admin/ — this link logs in once:")
            show_and_manage("login_link")
            print("\nCtrl-C stops everything; `make run` starts it again without the demo.")
            process.wait()
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
