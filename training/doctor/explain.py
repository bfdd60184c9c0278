"""What to do about an error that somebody has in front of them, in our words or in Google's."""

import re
from typing import NamedTuple

from deployments.gcp.errors import advice_of, fault_of


class Known(NamedTuple):
    """An error by the words it comes with. The first of KNOWN that fits holds."""

    words: str
    """Regular expression, whatever the case."""
    means: str
    advice: str


KNOWN = (
    Known(
        r"service .*not found|not found.* service|could not find service|cannot find service",
        "There is no Cloud Run service of that name in that project and region.",
        "See what is there: manage.py services list. Deploy it: "
        "manage.py deploy_ml_engine PROJECT SERVICE REGION VERSION",
    ),
    Known(
        r"no_model|no version is live|mod[eè]le non disponible|model (is )?not available"
        r"|no version was promoted",
        "The server has no version to decide with: none was promoted, or it did not load.",
        "See whether the files are there: manage.py artifacts list. Promote a version: "
        "manage.py promote fraud VERSION --reason TEXT. Why one did not load: "
        "manage.py services logs SERVICE",
    ),
    Known(
        r"job .*not found|not found.* job",
        "There is no Cloud Run job of that name in that project and region.",
        "See what is there: manage.py jobs list. Deploy it: "
        "manage.py deploy_training_job PROJECT JOB REGION VERSION",
    ),
    Known(
        r"job .*(failed|échou)|execution .*failed|(application|container) failed.*exit"
        r"|non-?zero exit",
        "The training program ended without a version.",
        "Read its log: manage.py runs logs RUN, or manage.py jobs logs EXECUTION. What the run "
        "itself says: manage.py report RUN",
    ),
    Known(
        r"container failed to start|failed to listen on the port|HealthCheckContainerError"
        r"|user-provided container failed",
        "The new revision's container did not answer on its port, so the old one serves on.",
        "Its log says why: manage.py services logs SERVICE. Often a secret, the database or a "
        "setting: manage.py doctor --cloud",
    ),
    Known(
        r"database_unavailable|connection refused.*5432|could not connect to server"
        r"|connection to server .* failed|no such table|relation .* does not exist",
        "The database does not answer, or its tables are of another version of the program.",
        "manage.py doctor looks at both. Tables: manage.py migrate",
    ),
    Known(
        r"OperationalError.*redis|redis.*(refused|timed? ?out)|Error \d+ connecting to",
        "The broker does not answer.",
        "Look at REDIS_URL, and at manage.py doctor",
    ),
    Known(
        r"disallowedhost|invalid http_host|refused before it reached a page",
        "The name in the request is not one that the server answers to.",
        "Add it to ALLOWED_HOSTS",
    ),
    Known(
        r"unauthenticated|no key|key is not valid|authentication credentials",
        "The caller sent no key, or one that is not valid.",
        "Make one: manage.py create_api_key backend --scope score, and send it as "
        "Authorization: Api-Key KEY",
    ),
)
UNKNOWN = "That is no error that is known here. Look at the whole walk: manage.py doctor --cloud"


def explain(error: str, project: str = "", region: str = "") -> str:
    """What an error means and what to do about it, in words."""
    for known in KNOWN:
        if re.search(known.words, error, re.IGNORECASE | re.DOTALL):
            return f"{known.means} {known.advice}"
    status = re.search(r"\b(4\d\d|5\d\d)\b", error)
    words = re.sub(r"(?i)permission denied", "permission denied PERMISSION_DENIED", error)
    fault = fault_of(
        words,
        status=403
        if re.search(r"(?i)permission.?denied|forbidden", error)
        else int(status[1])
        if status
        else 0,
    )
    if fault is None:
        return UNKNOWN
    return f"Google: {fault.reason}. {advice_of(fault, error, project, region)}"
