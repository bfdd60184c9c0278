"""Shares of a service's traffic: what they were, what they become."""

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.gcp.errors import missing_accepted
from deployments.gcp.run_services import service_describe
from deployments.gcp.services import ServiceInfo, Traffic, kept
from deployments.models import CloudService, Deployment
from deployments.rollouts.specs import service_name


def found_service(service: CloudService) -> ServiceInfo | None:
    """The service as it is at Google, None when it is not there. Raises CloudError."""
    with missing_accepted():
        return service_describe(service_name(service))
    return None


def remembered(service: ServiceInfo | None) -> dict[str, Any]:
    """The shares as a row keeps them."""
    found: dict[str, Any] = {}
    for one in kept(service) if service else ():
        before = found.get(one.revision, {"percent": 0, "tag": ""})
        found[one.revision] = {
            "percent": before["percent"] + one.percent,
            "tag": one.tag or before["tag"],
        }
    return found


def before_of(deployment: Deployment) -> list[Traffic]:
    """The shares that a rollout found."""
    return _read(deployment.traffic_before)


def shared(before: Sequence[Traffic], revision: str, tag: str, percent: int) -> list[Traffic]:
    """`before`, with so many percent for a revision; the others share the rest as they did."""
    others = [one for one in before if one.revision != revision and one.percent]
    if percent == 100 or not others:
        return [Traffic(revision, 100, tag)]
    whole, left = sum(one.percent for one in others), 100 - percent
    given = []
    for one in others[1:]:
        share = one.percent * left // whole
        given.append(one._replace(percent=share))
    # The first takes what rounding leaves.
    first = others[0]._replace(percent=left - sum(one.percent for one in given))
    return [first, *given, Traffic(revision, percent, tag)]


def in_words(targets: Sequence[Traffic]) -> str:
    """“engine-v1-0-0-abc 90 %, engine-v1-1-0-def 10 %”."""
    return ", ".join(f"{one.revision} {one.percent} %" for one in targets if one.percent)


def _read(stored: Mapping[str, Any]) -> list[Traffic]:
    return [Traffic(name, one["percent"], one["tag"]) for name, one in stored.items()]
