"""Who may call a Cloud Run service, and the token that a call shows. Everything raises CloudError.

A service is private: its callers need the role `roles/run.invoker` and send an ID token in
`X-Serverless-Authorization` (https://cloud.google.com/run/docs/authenticating/service-to-service).
Cloud Run looks at that header first and takes it away, so that `Authorization` stays ours.
"""

from typing import Any

from deployments.gcp import clients
from deployments.gcp.errors import CloudError, translated
from deployments.gcp.run_services import CALL_SECONDS
from deployments.gcp.services import ServiceName

ROLE = "roles/run.invoker"
EVERYBODY = "allUsers"
ANYBODY = (EVERYBODY, "allAuthenticatedUsers")
"""Members that are no list of people: the second is whoever has any account at Google."""
TOKEN_HEADER = "X-Serverless-Authorization"  # noqa: S105 - a name, not a token


def invokers(name: ServiceName) -> list[str]:
    """Who may call the service, besides those whose role is on the whole project."""
    return sorted({one for bind in _bindings(_policy(name)) for one in bind.members})


def is_public(name: ServiceName) -> bool:
    """Whether everybody may call the service, with an account at Google or without."""
    return not set(ANYBODY).isdisjoint(invokers(name))


def public_set(name: ServiceName, public: bool) -> bool:
    """Let everybody call the service, or only who has the role; whether that changed anything."""
    if public:
        return invoker_add(name, EVERYBODY)
    removed = [invoker_remove(name, member) for member in ANYBODY]
    return any(removed)


def invoker_add(name: ServiceName, member: str) -> bool:
    """Let a member (`serviceAccount:EMAIL`) call the service; False when it may already."""
    policy = _policy(name)
    if any(member in bind.members for bind in _bindings(policy)):
        return False
    policy.bindings.add(role=ROLE, members=[member])
    _write(name, policy)
    return True


def invoker_remove(name: ServiceName, member: str) -> bool:
    """Take from a member what it has on the service; False when it has nothing."""
    policy = _policy(name)
    held = [bind for bind in _bindings(policy) if member in bind.members]
    for bind in held:
        bind.members.remove(member)
        if not bind.members:
            policy.bindings.remove(bind)
    if held:
        _write(name, policy)
    return bool(held)


def id_token(url: str) -> str:
    """A token that says who we are to the service at `url`, which is its main address also when
    the call goes to a tag's."""
    import google.auth
    from google.auth.transport.requests import Request
    from google.oauth2 import credentials as users
    from google.oauth2 import id_token as tokens

    with translated("Getting an ID token"):
        credentials, _ = google.auth.default()
        request = Request()
        if not isinstance(credentials, users.Credentials):
            return str(tokens.fetch_id_token(request, url))  # type: ignore[no-untyped-call]
        # A person's: it is for no address in particular, and Cloud Run takes it.
        credentials.refresh(request)  # type: ignore[no-untyped-call]
        if credentials.id_token:
            return str(credentials.id_token)
    raise CloudError(
        "Google gave no ID token for this login. Log in (gcloud auth application-default login), "
        "or have Sentinelle run as a service account.",
        reason="credentials",
    )


def _policy(name: ServiceName) -> Any:
    with _translated(f"Reading who may call {name.service}", name):
        # Conditions come with version 3 alone, and would be lost when it is written back.
        request = {"resource": name.full, "options": {"requested_policy_version": 3}}
        return clients.run_services().get_iam_policy(request=request, timeout=CALL_SECONDS)


def _write(name: ServiceName, policy: Any) -> None:
    with _translated(f"Changing who may call {name.service}", name):
        request = {"resource": name.full, "policy": policy}
        clients.run_services().set_iam_policy(request=request, timeout=CALL_SECONDS)


def _bindings(policy: Any) -> list[Any]:
    """What gives the role without a condition."""
    return [
        bind for bind in policy.bindings if bind.role == ROLE and not bind.HasField("condition")
    ]


def _translated(what: str, name: ServiceName) -> Any:
    return translated(what, project=name.project, region=name.region, service=name.service)
