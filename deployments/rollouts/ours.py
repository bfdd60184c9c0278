"""What has a service's names at Google, as long as it is ours: what is not is left alone."""

from deployments.gcp.errors import CloudError, missing_accepted
from deployments.gcp.run_jobs import job_describe
from deployments.gcp.run_services import check_ours
from deployments.gcp.services import ServiceInfo
from deployments.models import CloudService
from deployments.rollouts.specs import MIGRATION, migration_job, service_name
from deployments.rollouts.traffic import found_service


def own_service(service: CloudService) -> ServiceInfo | None:
    """The service as it is at Google, None when it is not there.

    Raises CloudError, with the reason `exists` when it, or the job that migrates, is not ours.
    """
    found = found_service(service)
    if found is not None:
        check_ours(service_name(service), found.labels)
    job = migration_job(service)
    with missing_accepted():
        if job_describe(job).labels.get("sentinelle") != MIGRATION:
            raise CloudError(
                f"The job {job.job} is not Sentinelle's: it has no label sentinelle={MIGRATION}. "
                "Choose another name for the service.",
                reason="exists",
            )
    return found
