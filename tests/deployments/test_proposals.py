"""A version is proposed: the alias “challenger” moves, what serves stays."""

import pytest
from django.contrib.auth.models import User
from django.urls import reverse

from deployments import selectors, services
from deployments.models import Alias, PromotionEvent
from engine.errors import RegistryError
from tests import bundles

pytestmark = pytest.mark.django_db
WORDS = "Better than the champion v1.0.0. On the same 20,000 transactions …"


def propose(number: str) -> PromotionEvent:
    version = selectors.version_by_semver(selectors.model_by_name("fraud"), number)
    return services.version_propose(version=version, actor="schedule nightly", reason=WORDS)


@pytest.fixture
def versions(fraud):
    for number in ("1.0.0", "1.1.0", "1.2.0"):
        bundles.register(number)
    bundles.promote("1.0.0")
    return fraud


def test_the_alias_moves_and_leaves_events(versions):
    propose("1.1.0")
    event = propose("1.2.0")
    assert str(event) == "Proposal v1.1.0 → v1.2.0"
    assert event.reason == WORDS
    assert Alias.objects.get(name="challenger").version.version == "1.2.0"
    assert selectors.live_pointer("fraud").version.version == "1.0.0"
    assert selectors.standing_proposal(versions) == event


def test_a_proposal_stands_until_its_version_is_promoted(versions):
    propose("1.1.0")
    bundles.promote("1.2.0")
    assert selectors.standing_proposal(versions)
    bundles.promote("1.1.0")
    assert selectors.standing_proposal(versions) is None
    services.rollback(model=versions, actor="ana", reason="worse")
    assert selectors.live_pointer("fraud").version.version == "1.2.0"
    assert selectors.standing_proposal(versions) is None


def test_proposals_are_no_steps_of_a_rollback(versions):
    bundles.promote("1.1.0")
    propose("1.2.0")
    services.rollback(model=versions, actor="ana", reason="worse")
    assert selectors.live_pointer("fraud").version.version == "1.0.0"


def test_what_cannot_be_proposed_is_refused(versions):
    propose("1.1.0")
    with pytest.raises(RegistryError, match="proposed already"):
        propose("1.1.0")
    with pytest.raises(RegistryError, match="champion of fraud already"):
        propose("1.0.0")
    bundles.register("2.0.0", deployable=False)
    with pytest.raises(RegistryError, match="on a sample"):
        propose("2.0.0")
    assert PromotionEvent.objects.filter(alias="challenger").count() == 1


def test_the_admin_shows_it_with_its_words_and_leads_to_the_promotion(versions, client):
    client.force_login(User.objects.create_superuser("ada"))
    version = propose("1.1.0").to_version
    listed = client.get(reverse("admin:deployments_modelversion_changelist")).content.decode()
    assert listed.count(">proposed<") == 1
    assert "is proposed by schedule nightly" in listed
    assert WORDS in listed
    assert reverse("admin:deployments_modelversion_promote", args=[version.pk]) in listed
    address = reverse("admin:deployments_modelversion_change", args=[version.pk])
    assert WORDS in client.get(address).content.decode()
    other = selectors.version_by_semver(versions, "1.2.0")
    address = reverse("admin:deployments_modelversion_change", args=[other.pk])
    assert "roposed" not in client.get(address).content.decode()
    events = client.get(reverse("admin:deployments_promotionevent_changelist")).content.decode()
    assert ">Proposal<" in events
