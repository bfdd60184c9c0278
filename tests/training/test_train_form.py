"""The form that starts a run: its headings, its marks and what it says to expect."""

import pytest
from django.test import Client

from tests.bundles import seed_registry
from tests.training.support import make_dataset
from training.forms import GROUPS, TrainForm

pytestmark = pytest.mark.django_db
ADDRESS = "/admin/training/trainingrun/expected/"


@pytest.fixture
def data(db):
    seed_registry()
    make_dataset(rows=100_000)


def test_every_field_has_a_heading(data):
    assert sorted(name for _, names in GROUPS for name in names) == sorted(TrainForm().fields)


def test_a_launcher_that_cannot_be_chosen_says_why(data, settings):
    settings.GOOGLE_CLOUD_PROJECT = ""
    labels = dict(TrainForm().fields["launcher"].choices)
    assert labels["local"] == "This machine"
    assert labels["vm"].endswith("(needs GOOGLE_CLOUD_PROJECT and BUCKET_NAME)")


def test_what_to_expect_of_a_form(data, admin_client: Client):
    assert "Choose a data set" in admin_client.get(ADDRESS).json()["words"]
    told = admin_client.get(ADDRESS, {"dataset": "sales", "launcher": "local"}).json()
    assert told["words"].startswith("This machine: 100,000 rows take about")
    assert "nothing is charged" in told["words"]
    chosen = admin_client.get(ADDRESS, {"dataset": "sales", "launcher": "auto"}).json()
    assert "100,000 rows take about" in chosen["words"]
    refused = admin_client.get(ADDRESS, {"dataset": "sales", "label_delay": "soon"}).json()
    assert "soon" in refused["words"]


def test_only_who_may_train_is_told(data, client: Client):
    assert client.get(ADDRESS).status_code == 302
