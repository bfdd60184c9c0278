"""What a program said last, for whoever has to find out why it did not start."""

from deployments.gcp.errors import CloudError
from deployments.gcp.logs import execution_lines, service_lines
from deployments.gcp.services import ServiceName

LINES = 12


def last_words(
    *, execution: str = "", service: ServiceName | None = None, revision: str = ""
) -> str:
    """The last lines of an execution's log, or of a revision's, to follow a sentence; "" when
    there is none, or when Google does not answer."""
    try:
        if service is None:
            lines = execution_lines(execution, last=LINES)
        else:
            lines = service_lines(service, revision=revision, last=LINES)
    except CloudError:
        return ""
    if not lines:
        return ""
    return "\nIts last lines:\n" + "\n".join(str(line) for line in lines)
