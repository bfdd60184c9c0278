"""The pages of registered models, as who may do what sees them."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from deployments.models import RegisteredModel
from tests import bundles, classifiers
from tests.engine.classifiers import CHURN, SPONSOR
from tests.training.support import make_dataset, make_run

pytestmark = pytest.mark.django_db


@pytest.fixture
def fraud(settings, tmp_path) -> RegisteredModel:
    settings.ARTIFACTS_DIR = str(tmp_path / "artifacts")
    return bundles.seed_registry()


def url(view: str, *args: Any) -> str:
    return reverse(f"admin:deployments_registeredmodel_{view}", args=args)


def text(answer: Any) -> str:
    return str(answer.content.decode())


@pytest.fixture
def viewer(client: Client, fraud) -> Client:
    """Someone who may look at models and at nothing else."""
    user = User.objects.create_user("vera", password="x", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_registeredmodel"))
    client.force_login(user)
    return client


def test_a_viewer_sees_models_and_changes_none(viewer, fraud):
    model = classifiers.register_model()
    assert "Register a classifier" not in text(viewer.get(url("changelist")))
    page = text(viewer.get(url("change", model.pk)))
    assert "match_minute" in page
    assert "Change the definition" not in page
    assert "Train a version" not in page
    for address in (url("add"), url("definition", model.pk)):
        assert viewer.get(address).status_code == 403
        assert viewer.post(address, {"source": CHURN, "_save": "1"}).status_code == 403
    assert list(RegisteredModel.objects.values_list("name", flat=True)) == ["fraud", "sponsor"]


def test_the_page_of_the_fraud_model_tells_what_serves_and_its_rules(admin_client, fraud):
    bundles.register("1.0.0")
    bundles.promote("1.0.0")
    make_run("1.1.0")
    rows = classifiers.register_model()
    make_dataset("rows", model=rows)
    page = text(admin_client.get(url("change", fraud.pk)))
    assert "<strong>v1.0.0</strong>" in page
    assert ">default</a>" in page
    for told in ("1 version<", "1 training run<", "1 data set<", ">Decisions<"):
        assert told in page
    assert "Change the definition" not in page
    assert admin_client.get(url("definition", fraud.pk)).status_code == 302
    listed = text(admin_client.get(url("changelist")))
    assert "v1.1.0</a>" in listed
    assert "Queued" in listed


def test_the_links_of_a_model_lead_to_lists(admin_client, fraud):
    classifiers.register("1.0.0")
    for name in ("sponsor", "fraud"):
        page = admin_client.get(url("change", RegisteredModel.objects.get(name=name).pk))
        links = page.context["links"]
        assert len(links) == 5
        for link in links:
            assert admin_client.get(link.address).status_code == 200, link


def test_a_definition_that_is_not_read_any_more_is_said_and_shown(admin_client, fraud):
    RegisteredModel.objects.create(name="old", kind="classifier", definition='name = "old"')
    page = text(admin_client.get(url("change", RegisteredModel.objects.get(name="old").pk)))
    assert '<p class="warning">' in page
    assert "target" in page
    assert "name = &quot;old&quot;" in page


@pytest.mark.parametrize("key", ["999999", "nothing", "9" * 40], ids=["none", "word", "long"])
def test_an_unknown_model_leads_to_the_list(admin_client, fraud, key):
    assert admin_client.get(url("change", key)).headers["Location"] == url("changelist")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Paste a definition, or choose a file."),
        ({"file": b"\xff\xfe"}, "it is not text in UTF-8"),
        ({"file": b"#" * 500_001}, "it has more than 500 kB"),
        ({"source": "name = yes"}, "at line 1, column 8"),
        ({"source": CHURN.replace("maximum = 120", "maximum = 1")}, "inputs.age"),
    ],
    ids=["nothing", "not-text", "too-long", "not-toml", "not-valid"],
)
def test_what_is_no_definition_is_refused_at_its_field(admin_client, fraud, given, said):
    if "file" in given:
        given = {"file": SimpleUploadedFile("some.toml", given["file"])}
    page = admin_client.post(url("add"), {**given, "_save": "1"})
    assert page.status_code == 200
    assert said in text(page)
    assert RegisteredModel.objects.count() == 1


def test_a_definition_with_windows_line_ends_is_kept_with_plain_ones(admin_client, fraud):
    source = SPONSOR.replace("\n", "\r\n")
    answer = admin_client.post(url("add"), {"source": source, "_save": "1"})
    assert answer.status_code == 302
    model = RegisteredModel.objects.get(name="sponsor")
    assert (model.definition, model.defined_by) == (SPONSOR, "admin")
    again = admin_client.post(url("add"), {"source": SPONSOR, "_preview": "1"})
    assert "it is the same text" in text(again)
