"""Cloud Run services of the local Google: v2 REST, with revisions that really answer.

A deployment makes a revision; a revision becomes ready when its container does; a service is what
was asked when its newest revision is ready and its traffic is shared out as was said. Who serves
the requests, and which revision each goes to, is in tests.google.serving.
"""

import re
import uuid
from collections.abc import Mapping
from typing import Any

from google.cloud import run_v2
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import json_format

from tests.google.messages import last, now, page_of, parsed, written
from tests.google.run import PLACE, RunApi
from tests.google.server import Call, GoogleServer, Handler, Refusal
from tests.google.serving import Serving
from tests.google.world import Missing

State = run_v2.Condition.State
Kind = run_v2.TrafficTargetAllocationType
NEVER = "never"
"""A revision that neither becomes ready nor fails."""
NOT_STARTED = (
    "The user-provided container failed to start and listen on the port defined provided by the "
    "PORT=8080 environment variable within the allocated timeout. This can happen when the "
    "container port is misconfigured or if the timeout is too short. The health check timeout can "
    "be extended. Logs for this revision might contain more information."
)
UPDATABLE = ("template", "traffic", "scaling", "labels", "annotations", "ingress", "description")


class ServicesApi:
    """Services and revisions.

    Args:
        run: has the images, the logs, the operations and what containers find around them.
        runs_program: each revision is a process of the image's own program or of the command it
            is given; otherwise something that answers as little as tests.google.serving says.
    """

    def __init__(self, run: RunApi, *, runs_program: bool = False) -> None:
        self.run, self.lock = run, run.lock
        self.services: dict[str, run_v2.Service] = {}
        self.revisions: dict[str, run_v2.Revision] = {}
        self.policies: dict[str, policy_pb2.Policy] = {}
        self.ready_reads = 2
        """How often a service is read until it is what was asked."""
        self.outcomes: list[str] = []
        """How the next revisions end: NEVER, an empty text (ready) or why they are not."""
        self.serving = Serving(self, runs_program=runs_program)
        self.masks: list[list[str]] = []
        """Which fields each update named; none: all."""
        self.monitoring: Any = None
        """What measures them, where something does."""
        self._planned: dict[str, str] = {}
        self._left: dict[str, int] = {}
        service = rf"({PLACE}/services/[^/:]+)"
        revision = rf"({PLACE}/services/[^/:]+/revisions/[^/:]+)"
        routes: list[tuple[str, str, Handler]] = [
            ("POST", rf"/v2/({PLACE})/services", self._create),
            ("GET", rf"/v2/({PLACE})/services", self._list),
            ("GET", rf"/v2/{service}", self._get),
            ("PATCH", rf"/v2/{service}", self._update),
            ("DELETE", rf"/v2/{service}", self._delete),
            ("GET", rf"/v2/{service}/revisions", self._list_revisions),
            ("GET", rf"/v2/{revision}", self._get_revision),
            ("DELETE", rf"/v2/{revision}", self._delete_revision),
            ("GET", rf"/v2/{service}:getIamPolicy", self._get_policy),
            ("POST", rf"/v2/{service}:setIamPolicy", self._set_policy),
        ]
        self.routes = [(method, path, self._alone(handler)) for method, path, handler in routes]

    def _alone(self, handler: Handler) -> Handler:
        def answer(call: Call) -> Any:
            with self.lock:
                return handler(call)

        return answer

    @property
    def google(self) -> GoogleServer:
        """The server that has this API."""
        assert self.run.google is not None
        return self.run.google

    def close(self) -> None:
        """End every process and stop answering."""
        self.serving.close()

    def may_call(self, service: str, member: str) -> bool:
        """Whether a member, or everybody, has the role to call a service."""
        return any(
            member in bind.members or "allUsers" in bind.members
            for bind in self.policies[service].bindings
            if bind.role == "roles/run.invoker"
        )

    # --- Services --------------------------------------------------------------------------

    def _create(self, call: Call) -> Any:
        parent, id_ = call.match[1], call.query["serviceId"]
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,47}[a-z0-9])?", id_):
            raise Refusal("INVALID_ARGUMENT", f"service_id: {id_} must be a DNS label")
        name = f"{parent}/services/{id_}"
        if name in self.services:
            raise Refusal("ALREADY_EXISTS", f"Resource '{id_}' already exists.")
        return self._make(name, parsed(run_v2.Service, call), call.query)

    def _make(self, name: str, service: run_v2.Service, query: Mapping[str, str]) -> Any:
        service.name, service.uid, service.create_time = name, str(uuid.uuid4()), now()
        service.traffic = list(service.traffic) or [
            run_v2.TrafficTarget(type_=Kind.TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST, percent=100)
        ]
        self._check(service)
        if query.get("validateOnly") == "true":
            return self.run.begin(name, service, lambda: service)
        self.policies[name] = policy_pb2.Policy(etag=b"first", version=1)
        return self._deploy(service, has_new_revision=True)

    def _update(self, call: Call) -> Any:
        name, service = call.match[1], parsed(run_v2.Service, call)
        if name not in self.services and call.query.get("allowMissing") == "true":
            return self._make(name, service, call.query)
        known = self._service(name)
        if service.etag and service.etag != known.etag:
            raise Refusal(
                "ABORTED",
                f"Conflict for resource '{last(name)}': version '{service.etag}' was specified but "
                f"current version is '{known.etag}'.",
            )
        mask = [path for path in call.query.get("updateMask", "").split(",") if path]
        if wrong := [path for path in mask if path not in UPDATABLE]:
            raise Refusal("INVALID_ARGUMENT", f"update_mask: {wrong[0]} can't be updated")
        self.masks.append(mask)
        changed = run_v2.Service(known)
        for path in mask or UPDATABLE:
            setattr(changed, path, getattr(service, path))
        self._check(changed)
        has_new_revision = changed.template != known.template
        if has_new_revision:
            self._check_revision(changed)
        if call.query.get("validateOnly") == "true":
            return self.run.begin(name, changed, lambda: changed)
        return self._deploy(changed, has_new_revision)

    def _deploy(self, service: run_v2.Service, has_new_revision: bool) -> Any:
        service.generation += 1
        service.etag, service.update_time = f'"{uuid.uuid4().hex}"', now()
        service.reconciling = True
        service.terminal_condition = _condition("Ready", State.CONDITION_RECONCILING)
        self._left[service.name] = self.ready_reads
        self.services[service.name] = service
        if has_new_revision:
            self._begin(service)
        return self.run.begin(service.name, service, lambda: self._outcome(service.name))

    def _begin(self, service: run_v2.Service) -> None:
        template = service.template
        revision = run_v2.Revision(
            name=f"{service.name}/revisions/{template.revision or _generated(service)}",
            uid=str(uuid.uuid4()),
            service=last(service.name),
            generation=1,
            create_time=now(),
            labels=template.labels,
            scaling=template.scaling,
            vpc_access=template.vpc_access,
            max_instance_request_concurrency=template.max_instance_request_concurrency or 80,
            timeout=template.timeout,
            service_account=template.service_account,
            containers=template.containers,
            volumes=template.volumes,
            conditions=[_condition("Ready", State.CONDITION_PENDING)],
            reconciling=True,
            log_uri="https://console.cloud.google.com/logs/viewer?project=test-project",
            etag=f'"{uuid.uuid4().hex}"',
        )
        self.revisions[revision.name] = revision
        service.latest_created_revision = revision.name
        planned = self.outcomes.pop(0) if self.outcomes else ""
        self._planned[revision.name] = planned or self._start(revision)

    def _start(self, revision: run_v2.Revision) -> str:
        """Start its container; why that can't be, or an empty text."""
        image = revision.containers[0].image
        if not self.run.has_image(image):
            return f"Image '{image}' not found."
        try:
            self.serving.start(revision)
        except Missing as error:
            return str(error)
        return ""

    def _advance(self, name: str) -> None:
        """What happens to a service between two looks at it."""
        service = self.services[name]
        if not service.reconciling:
            return
        revision = self.revisions[service.latest_created_revision]
        self._left[name] -= 1
        message = self._ended(revision)
        if self._left[name] > 0 or message is None:
            return
        _settle(revision, message)
        service.reconciling = False
        if not message:
            service.latest_ready_revision = revision.name
        fault = message or self._share(service)
        if message:
            self._share(service)
        if not fault:
            service.observed_generation = service.generation
        state = State.CONDITION_FAILED if fault else State.CONDITION_SUCCEEDED
        service.terminal_condition = _condition("Ready", state, fault and _unready(revision, fault))
        service.uri = service.uri or self.serving.open(name)

    def _ended(self, revision: run_v2.Revision) -> str | None:
        """Why a revision is not ready, an empty text when it is, None while that is open."""
        planned = self._planned[revision.name]
        if planned == NEVER:
            return None
        return planned or self.serving.ended(revision)

    def _share(self, service: run_v2.Service) -> str:
        """Let the traffic be as was asked; why it can't be, or an empty text."""
        statuses = []
        for target in service.traffic:
            name = _full(service, target)
            revision = self.revisions.get(name)
            if revision is None or not _is_ready(revision):
                return f"Revision '{last(name)}' is not ready and cannot serve traffic."
            statuses.append(
                run_v2.TrafficTargetStatus(
                    type_=target.type_,
                    revision=last(name) if target.revision else "",
                    percent=target.percent,
                    tag=target.tag,
                    uri=self.serving.open(service.name, target.tag) if target.tag else "",
                )
            )
        service.traffic_statuses = statuses
        self.serving.keep(service.name, {_full(service, one) for one in service.traffic})
        return ""

    def _outcome(self, name: str) -> Any:
        service = self.services.get(name)
        if service is not None:
            self._advance(name)
        return None if service is None or service.reconciling else service

    def _list(self, call: Call) -> Any:
        inside = f"{call.match[1]}/services/"
        found = [one for name, one in sorted(self.services.items()) if name.startswith(inside)]
        page, token = page_of(found, call)
        return written(run_v2.ListServicesResponse(services=page, next_page_token=token))

    def _get(self, call: Call) -> Any:
        service = self._service(call.match[1])
        answer = written(service)
        self._advance(service.name)
        return answer

    def _delete(self, call: Call) -> Any:
        service = self._service(call.match[1])
        if call.query.get("etag", service.etag) != service.etag:
            raise Refusal("ABORTED", "Conflict for resource: version does not match.")
        self.serving.forget(service.name)
        for name in [name for name in self.revisions if name.startswith(f"{service.name}/")]:
            del self.revisions[name]
        del self.services[service.name], self.policies[service.name]
        return self.run.begin(service.name, service, lambda: service)

    def _service(self, name: str) -> run_v2.Service:
        if name not in self.services:
            raise Refusal("NOT_FOUND", f"Resource '{last(name)}' of kind 'SERVICE' in region "
                          f"'{name.split('/')[3]}' in project '{name.split('/')[1]}' does not "
                          "exist.")  # fmt: skip
        return self.services[name]

    # --- Revisions -------------------------------------------------------------------------

    def _list_revisions(self, call: Call) -> Any:
        inside = f"{self._service(call.match[1]).name}/revisions/"
        found = [one for name, one in self.revisions.items() if name.startswith(inside)]
        page, token = page_of(found, call)
        return written(run_v2.ListRevisionsResponse(revisions=page, next_page_token=token))

    def _get_revision(self, call: Call) -> Any:
        return written(self._revision(call.match[1]))

    def _delete_revision(self, call: Call) -> Any:
        revision = self._revision(call.match[1])
        service = self.services[revision.name.split("/revisions/")[0]]
        if revision.name in (_full(service, target) for target in service.traffic):
            raise Refusal("FAILED_PRECONDITION", "Revision is actively serving traffic.")
        if revision.name == service.latest_created_revision:
            raise Refusal("FAILED_PRECONDITION", "The latest revision can't be deleted.")
        self.serving.stop(revision.name)
        del self.revisions[revision.name]
        return self.run.begin(service.name, revision, lambda: revision)

    def _revision(self, name: str) -> run_v2.Revision:
        if name not in self.revisions:
            raise Refusal("NOT_FOUND", f"Revision '{last(name)}' not found.")
        return self.revisions[name]

    # --- Who may call ----------------------------------------------------------------------

    def _get_policy(self, call: Call) -> Any:
        self._service(call.match[1])
        if call.query.get("options.requestedPolicyVersion", "1") not in ("1", "3"):
            raise Refusal("INVALID_ARGUMENT", "options.requested_policy_version: 0, 1 or 3")
        return json_format.MessageToDict(self.policies[call.match[1]])

    def _set_policy(self, call: Call) -> Any:
        name = self._service(call.match[1]).name
        request = json_format.Parse(call.body, iam_policy_pb2.SetIamPolicyRequest())
        policy = request.policy
        if policy.etag and policy.etag != self.policies[name].etag:
            raise Refusal("ABORTED", "There were concurrent policy changes. Please retry.")
        for bind in policy.bindings:
            for member in bind.members:
                if not re.fullmatch(r"allUsers|allAuthenticatedUsers|\w+:\S+@\S+", member):
                    raise Refusal("INVALID_ARGUMENT", f"The member {member} is of an unknown type.")
        policy.etag = uuid.uuid4().bytes
        self.policies[name] = policy
        return json_format.MessageToDict(policy)

    # --- What Cloud Run refuses -------------------------------------------------------------

    def _check(self, service: run_v2.Service) -> None:
        template, id_ = service.template, last(service.name)
        if len(template.containers) != 1 or not template.containers[0].image:
            raise Refusal("INVALID_ARGUMENT", "template.containers: one with an image is required")
        limits = template.containers[0].resources.limits
        if limits.get("cpu", "1") not in ("1", "2", "4", "6", "8", "1000m"):
            raise Refusal(
                "INVALID_ARGUMENT",
                "template.containers[0].resources.limits.cpu: Invalid value specified for cpu.",
            )
        if template.timeout.total_seconds() > 3600:
            raise Refusal("INVALID_ARGUMENT", "template.timeout must not exceed 3600 seconds")
        if not 0 <= template.max_instance_request_concurrency <= 1000:
            raise Refusal("INVALID_ARGUMENT", "concurrency must be between 1 and 1000")
        if template.revision and not template.revision.startswith(f"{id_}-"):
            raise Refusal(
                "INVALID_ARGUMENT", f"template.revision: must begin with the service name {id_}-"
            )
        if sum(target.percent for target in service.traffic) != 100:
            raise Refusal("INVALID_ARGUMENT", "traffic: percents must sum to 100")
        tags = [target.tag for target in service.traffic if target.tag]
        for tag in tags:
            if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", tag) or len(id_ + tag) > 46:
                raise Refusal("INVALID_ARGUMENT", f"traffic: the tag {tag} is invalid or too long")
        if len(tags) > len(set(tags)):
            raise Refusal("INVALID_ARGUMENT", "traffic: the same tag more than once")
        self._check_targets(service)

    def _check_targets(self, service: run_v2.Service) -> None:
        for target in service.traffic:
            name = _full(service, target)
            by_revision = target.type_ == Kind.TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION
            if by_revision != bool(target.revision):
                raise Refusal("INVALID_ARGUMENT", "traffic: a type and a revision that go together")
            if by_revision and name not in self.revisions and (
                last(name) != service.template.revision
            ):  # fmt: skip
                raise Refusal("INVALID_ARGUMENT", f"Revision named '{last(name)}' not found.")

    def _check_revision(self, service: run_v2.Service) -> None:
        name = service.template.revision
        if f"{service.name}/revisions/{name}" in self.revisions:
            raise Refusal(
                "ALREADY_EXISTS",
                f"Revision named '{name}' with different configuration already exists.",
            )


def _full(service: run_v2.Service, target: run_v2.TrafficTarget) -> str:
    """The revision that a share goes to, which may be whichever is the newest that is ready."""
    if target.revision:
        return f"{service.name}/revisions/{last('/' + target.revision)}"
    return str(service.latest_ready_revision)


def _settle(revision: run_v2.Revision, message: str) -> None:
    state = State.CONDITION_FAILED if message else State.CONDITION_SUCCEEDED
    revision.conditions = [
        _condition("Ready", state, message),
        _condition("ContainerHealthy", state, message),
    ]
    revision.reconciling, revision.observed_generation = False, revision.generation


def _is_ready(revision: run_v2.Revision) -> bool:
    return bool(revision.conditions[0].state == State.CONDITION_SUCCEEDED)


def _unready(revision: run_v2.Revision, fault: str) -> str:
    if fault.startswith("Revision '"):
        return fault
    return f"Revision '{last(revision.name)}' is not ready and cannot serve traffic. {fault}"


def _condition(kind: str, state: Any, message: str = "") -> run_v2.Condition:
    return run_v2.Condition(type_=kind, state=state, message=message, last_transition_time=now())


def _generated(service: run_v2.Service) -> str:
    return f"{last(service.name)}-{service.generation:05}-{uuid.uuid4().hex[:3]}"
