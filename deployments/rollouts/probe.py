"""One look at a revision that gets no traffic yet: is it healthy, and does it decide?

It is asked at its tag's address. `Authorization` is our own API key; whoever may call a private
service shows so in `X-Serverless-Authorization`, which Cloud Run looks at first and takes away.
"""

import base64
import json
import uuid
from datetime import datetime
from typing import Any, NamedTuple

from deployments import services
from deployments.gcp.invokers import TOKEN_HEADER
from deployments.models import ApiKey, Deployment
from deployments.rollouts.errors import RolloutFailed

SECONDS = 60.0
"""For one answer: an instance may have to start first."""


class NotYet(Exception):
    """It may come to answer: an instance starts, or what was just made is not known everywhere."""


class Answer(NamedTuple):
    """What it answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, {} when it is not an object of JSON."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def words(self) -> str:
        """What a person is told of it."""
        problem = self.json
        said = problem.get("detail") or problem.get("reason") or self.body.decode(errors="replace")
        return f"{self.status}: {str(said).strip()[:300]}" if said else str(self.status)


def probe(deployment: Deployment, token: str, now: datetime) -> str:
    """Ask `/health` and then for a decision that is not kept; what it answered, in words.

    Args:
        token: an ID token for the service, "" for a public one.

    Raises:
        NotYet: it is to be asked again.
        RolloutFailed: what it answered will not mend by itself.
    """
    version = deployment.version.version
    check_health(deployment.url, token, version)
    with services.api_key_for_a_moment(name=_key_name(deployment)) as key:
        answer = _ask(
            "POST",
            f"{deployment.url}/score?dry_run=true",
            token,
            headers={"Authorization": f"Api-Key {key}", "Content-Type": "application/json"},
            body=transaction(now),
        )
    return _judge_decision(answer, version)


def check_health(url: str, token: str, version: str) -> None:
    """Raises NotYet or RolloutFailed unless `/health` is that of a healthy server of `version`."""
    answer = _ask("GET", f"{url}/health", token)
    if answer.status in (401, 403) and "model_version" not in answer.json:
        raise NotYet(f"its /health refuses this account, {answer.words}")
    if answer.status != 200 or answer.json.get("status") != "healthy":
        raise NotYet(f"its /health answers {answer.words}")
    found = str(answer.json.get("model_version")).removeprefix("v")
    if found != version:
        raise RolloutFailed(f"Its /health says that it serves v{found}; expected v{version}.")


def transaction(now: datetime) -> dict[str, Any]:
    """A `/score` body that is in nobody's history."""
    name = f"probe-{uuid.uuid4().hex[:12]}"
    return {
        "transaction": {
            "transaction_id": name,
            "amount": 10.0,
            "currency": "EUR",
            "source_wallet_id": f"{name}-from",
            "destination_wallet_id": f"{name}-to",
            "transaction_type": "TRANSFER",
            "created_at": now.isoformat(),
            "country": "FR",
        },
        "context": {"source_wallet": {"balance": 1000.0, "status": "active"}},
    }


def member_of(token: str) -> str:
    """Whose ID token it is, as a policy names them; "" when it does not say."""
    parts = token.split(".")
    if len(parts) != 3:
        return ""
    padded = parts[1] + "=" * (-len(parts[1]) % 4)
    try:
        facts = json.loads(base64.urlsafe_b64decode(padded))
    except ValueError:
        return ""
    # A person's token is for the program that they logged in with, not for the service.
    is_person = str(facts.get("aud", "")).endswith(".apps.googleusercontent.com")
    kind = "user" if is_person else "serviceAccount"
    return f"{kind}:{facts['email']}" if facts.get("email") else ""


def keys_delete(deployment: Deployment) -> None:
    """Delete the keys that probes of this rollout have left because they were killed."""
    ApiKey.objects.filter(name=_key_name(deployment), created_by=services.MOMENT).delete()


def _judge_decision(answer: Answer, version: str) -> str:
    if answer.status in (429, 502, 503, 504):
        raise NotYet(f"its /score answers {answer.words}")
    if answer.status == 401:
        raise RolloutFailed(
            f"Its /score does not know the key that was made for this probe ({answer.words}): does "
            "it use another database than this one?"
        )
    if answer.status != 200:
        raise RolloutFailed(f"Its /score answers {answer.words}.")
    if answer.headers.get("dry-run") != "true":
        raise RolloutFailed(
            "Its /score does not say “Dry-Run: true”: the image is of an older Sentinelle, and has "
            "recorded the probe as a transaction. Deploy a newer image."
        )
    decision = answer.json
    found = str(decision.get("model_version")).removeprefix("v")
    if found != version or "decision" not in decision:
        raise RolloutFailed(f"Its /score was decided by v{found}; expected v{version}.")
    return f"/health is healthy and /score decides {decision['decision']}, both by v{version}"


def _key_name(deployment: Deployment) -> str:
    return f"probe of {deployment.service.name} {deployment.tag}"


def _ask(
    method: str,
    url: str,
    token: str,
    *,
    headers: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
) -> Answer:
    import requests

    shown = {TOKEN_HEADER: f"Bearer {token}"} if token else {}
    try:
        answer = requests.request(
            method,
            url,
            data=None if body is None else json.dumps(body),
            headers=shown | (headers or {}),
            timeout=SECONDS,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        raise NotYet(f"{url} does not answer: {error}") from error
    names = {name.lower(): value for name, value in answer.headers.items()}
    return Answer(answer.status_code, names, answer.content)
