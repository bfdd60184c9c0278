"""Keys are made, found by what was shown once, and revoked."""

from datetime import timedelta

import pytest
from django.utils import timezone

from deployments import selectors, services
from deployments.models import ApiKey
from engine.errors import RegistryError

pytestmark = pytest.mark.django_db


def create(scopes: list[str]) -> tuple[ApiKey, str]:
    return services.api_key_create(name="backend", scopes=scopes, created_by="ana")


def test_a_key_is_found_by_its_text_alone():
    key, plain_key = create(["read", "score", "read"])
    create(["score"])
    assert selectors.api_key_find(plain_key) == key
    assert key.scopes == ["score", "read"]
    assert plain_key.startswith(key.prefix)
    for wrong in ("", key.prefix, key.sha256, plain_key + "x", plain_key.upper()):
        assert selectors.api_key_find(wrong) is None


def test_the_key_itself_is_kept_nowhere():
    key, plain_key = create(["score"])
    assert len(plain_key) > 40
    assert plain_key not in str(ApiKey.objects.filter(pk=key.pk).values()[0])


def test_a_revoked_key_is_found_no_more():
    key, plain_key = create(["score"])
    assert services.api_key_revoke(key=key)
    revoked_at = ApiKey.objects.get().revoked_at
    assert selectors.api_key_find(plain_key) is None
    assert not services.api_key_revoke(key=key)
    assert ApiKey.objects.get().revoked_at == revoked_at


@pytest.mark.parametrize("scopes", [[], ["admin"], ["score", "admin"]])
def test_scopes_that_do_not_exist(scopes):
    with pytest.raises(RegistryError, match="score, labels, read, train, promote") as raised:
        create(scopes)
    assert raised.value.errors[0].field == "scopes"
    assert not ApiKey.objects.exists()


def test_a_key_for_a_moment_is_gone_and_so_is_one_whose_process_was_killed():
    create(["score"])
    left = ApiKey.objects.create(name="doctor", sha256="0" * 64, created_by=services.MOMENT)
    with services.api_key_for_a_moment(name="probe") as key:
        assert selectors.api_key_find(key).scopes == ["score"]
        # Another's, who may be using it.
        assert ApiKey.objects.filter(pk=left.pk).exists()
    ApiKey.objects.filter(pk=left.pk).update(created_at=timezone.now() - timedelta(minutes=11))
    with services.api_key_for_a_moment(name="probe"):
        pass
    assert [key.name for key in ApiKey.objects.all()] == ["backend"]
