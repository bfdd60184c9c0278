"""Data sets and training runs in the admin, as people with different rights use them."""

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from deployments.models import RegisteredModel
from engine.store import open_store
from tests.bundles import register, seed_registry
from tests.training.support import claim_run, make_dataset, make_run
from training import claims, services
from training.models import Dataset, RunState, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)

ALERTS = {"alerts": 30, "alert_rate": 0.001, "precision": 0.8, "recall": 0.211, "f1": 0.33}
RANKING = {"pr_auc": 0.71234, "roc_auc": 0.98, "f1": 0.7, "recall_at_1_percent": 0.82}
METRICS = {
    **RANKING,
    "rows": 30_000,
    "frauds": 150,
    "supervised": RANKING,
    "unsupervised": RANKING,
    **dict.fromkeys(["rules", "block", "review", "model_block", "model_review"], ALERTS),
}


@pytest.fixture(autouse=True)
def _registry(transactional_db, settings, tmp_path):
    seed_registry()
    settings.RUNS_DIR = str(tmp_path / "runs")
    settings.ARTIFACTS_DIR = str(tmp_path / "artifacts")
    settings.DATA_DIR = str(tmp_path / "data")


@pytest.fixture
def admin(client):
    client.force_login(User.objects.create_superuser("ada"))
    return client


def login_with(client, *codenames: str):
    user, _ = User.objects.get_or_create(username="bob", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client.force_login(user)
    return client


def url(view: str, *args, model: str = "trainingrun") -> str:
    return reverse(f"admin:training_{model}_{view}", args=args)


def running() -> TrainingRun:
    run = claim_run(make_run("1.1.0"))
    progress = {"stage": "supervised", "fraction": 0.43, "message": "120 <trees>"}
    claims.run_heartbeat(run.pk, worker="one", progress=progress, now=timezone.now())
    open_store(run.folder).write("log/000001.txt", b"features: 2,000 <rows>\n")
    return run


def failed() -> TrainingRun:
    run = claim_run(make_run("1.2.0"))
    claims.run_fail(run.pk, worker="one", stage="split", error="No <frauds>.", now=timezone.now())
    run.refresh_from_db()
    return run


def succeeded() -> TrainingRun:
    run = make_run("1.0.0")
    TrainingRun.objects.filter(pk=run.pk).update(
        state=RunState.SUCCEEDED,
        started_at=timezone.now(),
        finished_at=timezone.now(),
        report={"metrics": METRICS, "peak_memory_mb": 830},
        model_version=register("1.0.0"),
    )
    return run


class TestRuns:
    def test_the_list_shows_every_state_and_finds(self, admin):
        running(), failed(), succeeded()
        page = admin.get(url("changelist")).content.decode()
        for text in (
            "v1.0.0",
            "v1.1.0",
            "v1.2.0",
            "Running",
            "supervised",
            "at split",
            "<progress",
        ):
            assert text in page
        assert "data-refresh" in page
        found = admin.get(url("changelist"), {"q": "1.2.0"}).content.decode()
        assert "v1.2.0" in found
        assert "v1.1.0" not in found
        assert admin.get(url("changelist"), {"state__exact": "failed"}).status_code == 200

    def test_the_list_takes_as_many_queries_for_many_as_for_few(
        self, admin, django_assert_max_num_queries
    ):
        for minor in range(9):
            make_run(f"2.{minor}.0")
        with django_assert_max_num_queries(14):
            admin.get(url("changelist"))

    @pytest.mark.parametrize("model", ["trainingrun", "dataset"])
    def test_the_list_does_not_read_what_is_long(self, admin, model):
        succeeded()
        with CaptureQueriesContext(connection) as queries:
            admin.get(url("changelist", model=model))
        read = [q["sql"].partition(f' FROM "training_{model}"') for q in queries]
        listing = [columns for columns, found, rest in read if found and "ORDER BY" in rest]
        assert listing
        for column in ('"report"', '"summary"', '"source"'):
            assert not [columns for columns in listing if column in columns]

    def test_a_page_without_active_runs_does_not_refresh_itself(self, admin):
        failed()
        assert "data-refresh" not in admin.get(url("changelist")).content.decode()

    def test_the_page_of_a_run_at_work(self, admin):
        page = admin.get(url("change", running().pk)).content.decode()
        assert 'value="0.4300"' in page
        assert "120 &lt;trees&gt;" in page
        assert "features: 2,000 &lt;rows&gt;" in page
        assert "Cancel this run" in page
        assert "data-refresh" in page

    def test_the_page_of_a_failure_says_where_and_why(self, admin):
        page = admin.get(url("change", failed().pk)).content.decode()
        assert "Failed at split." in page
        assert "No &lt;frauds&gt;." in page
        assert "Start again" in page
        assert "data-refresh" not in page

    def test_the_page_of_a_success_shows_metrics_and_leads_to_the_version(self, admin):
        run = succeeded()
        page = admin.get(url("change", run.pk)).content.decode()
        assert "0.7123" in page
        assert "21.1\N{NO-BREAK SPACE}%" in page
        assert "30,000 test transactions with 150 frauds" in page
        run.refresh_from_db()
        address = reverse("admin:deployments_modelversion_change", args=[run.model_version_id])
        assert f'href="{address}"' in page
        assert "Start again" not in page

    def test_the_report_is_given_as_one_file_to_who_may_look(self, client):
        run, active = succeeded(), running()
        login_with(client, "view_trainingrun")
        answer = client.get(url("report", run.pk))
        assert answer["Content-Disposition"] == 'attachment; filename="fraud-v1.0.0.html"'
        assert "0.7123" in answer.content.decode()
        answer = client.get(url("report", active.pk), follow=True)
        assert "Its report comes when the run ends." in answer.content.decode()
        login_with(client)
        assert client.get(url("report", run.pk)).status_code == 403
        client.logout()
        assert client.get(url("report", run.pk)).status_code == 302

    def test_cancel_and_start_again(self, admin):
        run = make_run()
        admin.post(url("cancel", run.pk))
        run.refresh_from_db()
        assert run.state == RunState.CANCELLED
        answer = admin.post(url("restart", run.pk))
        again = TrainingRun.objects.get(state=RunState.QUEUED)
        assert again.requested_by == "ada"
        assert answer["Location"] == url("change", again.pk)
        refused = admin.post(url("restart", run.pk), follow=True).content.decode()
        assert "is being trained" in refused

    def test_the_actions_tell_what_they_could_not_do(self, admin):
        queued, ended = make_run("1.0.0"), failed()
        data = {"action": "cancel_selected", "_selected_action": [queued.pk, ended.pk]}
        page = admin.post(url("changelist"), data, follow=True).content.decode()
        assert "Cancelled: fraud v1.0.0." in page
        assert "v1.2.0: This run has already ended: it has failed." in page
        data["action"] = "restart_selected"
        page = admin.post(url("changelist"), data, follow=True).content.decode()
        assert "Started again: " in page
        assert TrainingRun.objects.filter(state=RunState.QUEUED).count() == 2

    def test_nothing_of_a_run_can_be_edited_or_deleted(self, admin):
        run = failed()
        admin.post(url("change", run.pk), {"state": "succeeded"})
        assert admin.post(url("delete", run.pk), {"post": "yes"}).status_code == 403
        run.refresh_from_db()
        assert run.state == RunState.FAILED

    @pytest.mark.parametrize("verb", ["cancel", "restart"])
    def test_the_buttons_need_a_right_and_a_post(self, client, verb):
        run = make_run() if verb == "cancel" else failed()
        before = run.state
        login_with(client, "view_trainingrun")
        assert client.get(url("change", run.pk)).status_code == 200
        assert client.post(url(verb, run.pk)).status_code == 403
        assert client.get(url("add")).status_code == 403
        client.force_login(User.objects.create_superuser("ada"))
        assert client.get(url(verb, run.pk)).status_code == 403
        run.refresh_from_db()
        assert run.state == before
        assert TrainingRun.objects.count() == 1

    @pytest.mark.parametrize(
        ("more", "then"), [((), "propose"), (("promote_modelversion",), "promote")]
    )
    def test_who_may_not_promote_starts_no_run_again_that_does(self, client, more, then):
        run = make_run(then="promote")
        services.run_cancel(run, now=timezone.now())
        login_with(client, "view_trainingrun", "add_trainingrun", *more)
        client.post(url("restart", run.pk))
        assert TrainingRun.objects.exclude(pk=run.pk).get().then == then

    def test_who_may_not_look_sees_nothing(self, client):
        run = failed()
        login_with(client)
        assert client.get(url("change", run.pk)).status_code == 403
        assert client.get(url("changelist")).status_code == 403

    def test_an_unknown_run_leads_to_the_list(self, admin):
        for key in ("00000000-0000-4000-8000-000000000000", "nonsense"):
            assert admin.get(url("change", key))["Location"] == url("changelist")


class TestTrainForm:
    def form(self, **changes):
        values = {"model": "fraud", "dataset": "sales", "version": "1.0.0", "seed": "0"}
        return values | changes

    def test_it_starts_a_run(self, admin):
        make_dataset()
        answer = admin.post(url("add"), self.form(sample="500", rules="none", seed="4"))
        run = TrainingRun.objects.get()
        assert answer["Location"] == url("change", run.pk)
        assert (run.sample, run.rule_set.name, run.seed) == (500, "none", 4)
        assert run.requested_by == "ada"

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"version": "one"}, "is not a semantic version"),
            ({"version": "2.0.0"}, "is being trained"),
            ({"dataset": ""}, "This field is required"),
            ({"sample": "0"}, "greater than or equal to 1"),
            ({"seed": "many"}, "Enter a whole number"),
        ],
    )
    def test_refusals_stand_beside_their_field(self, admin, change, says):
        make_run("2.0.0")
        page = admin.post(url("add"), self.form(**change)).content.decode()
        assert says in page
        assert "Nothing was started" in page
        assert TrainingRun.objects.count() == 1

    def test_only_who_may_promote_has_a_run_do_it(self, client):
        make_dataset()
        user = User.objects.create_user("bob", password="x", is_staff=True)
        rights = ["add_trainingrun", "view_trainingrun"]
        user.user_permissions.set(Permission.objects.filter(codename__in=rights))
        client.force_login(user)
        page = client.post(url("add"), self.form(then="promote")).content.decode()
        assert "It takes the permission “Can promote a model version”." in page
        assert not TrainingRun.objects.exists()
        client.post(url("add"), self.form(then="propose"))
        run = TrainingRun.objects.get()
        assert run.then == "propose"
        user.user_permissions.add(Permission.objects.get(codename="promote_modelversion"))
        client.post(url("add"), self.form(then="promote", version="1.1.0"))
        assert TrainingRun.objects.get(version="1.1.0").then == "promote"

    def test_it_suggests_the_next_version_and_the_data_set_one_comes_from(self, admin):
        make_run("1.9.3")
        page = admin.get(url("add"), {"dataset": "sales"}).content.decode()
        assert 'value="1.10.0"' in page
        assert '<option value="sales" selected>' in page

    def test_the_first_version_is_suggested(self, admin):
        assert RegisteredModel.objects.exists()
        assert 'value="1.0.0"' in admin.get(url("add")).content.decode()


class TestDatasets:
    def test_a_page_shows_how_the_file_was_read(self, admin):
        summary = {
            "mapping": '[columns]\namount = { column = "<amt>" }',
            "start": "2026-02-01T00:00:00Z",
            "label_delay": "7d",
            "attributes": {"age": "number", "shop": "category"},
            "columns": ["amount", "label_known_at"],
        }
        row = make_dataset(summary=summary)
        page = admin.get(url("change", row.pk, model="dataset")).content.decode()
        assert "amount = { column = &quot;&lt;amt&gt;&quot; }" in page
        assert "another start: 2026-02-01T00:00:00Z" in page
        assert "each row says when its label was known, else 7d after the transaction" in page
        assert "age (number), shop (category)" in page

    def test_an_older_one_says_what_it_does_not_know(self, admin):
        page = admin.get(url("change", make_dataset().pk, model="dataset")).content.decode()
        assert "the data set does not say" in page

    def test_the_list_and_the_page(self, admin):
        row = make_dataset(rejected=12, summary={"reject_counts": {"amount": 12}, "columns": ["a"]})
        page = admin.get(url("changelist", model="dataset")).content.decode()
        for text in ("2,000", "1.000%", "2026-01-01 to 2026-03-01"):
            assert text in page
        page = admin.get(url("change", row.pk, model="dataset")).content.decode()
        assert "amount: 12" in page
        assert row.fingerprint in page
        assert "?dataset=sales" in page

    def test_a_used_one_is_not_deleted(self, admin):
        run = make_run()
        address = url("delete", run.dataset_id, model="dataset")
        assert admin.post(address, {"post": "yes"}).status_code == 403
        data = {"action": "delete_selected", "_selected_action": [run.dataset_id], "post": "yes"}
        page = admin.post(url("changelist", model="dataset"), data).content.decode()
        assert "protected related objects" in page
        assert f"v{run.version}" in page
        assert "permission" not in page
        assert Dataset.objects.exists()

    def test_an_unused_one_is_deleted_with_its_files(self, admin, settings):
        row = make_dataset()
        store = open_store(settings.DATA_DIR)
        store.write(f"{row.location}/data.parquet", b"rows")
        admin.post(url("delete", row.pk, model="dataset"), {"post": "yes"})
        assert not Dataset.objects.exists()
        assert store.list() == []

    def test_several_at_once_go_with_their_files(self, admin, settings):
        rows = [make_dataset("one"), make_dataset("two")]
        store = open_store(settings.DATA_DIR)
        for row in rows:
            store.write(f"{row.location}/data.parquet", b"rows")
        pks = [row.pk for row in rows]
        data = {"action": "delete_selected", "_selected_action": pks, "post": "yes"}
        admin.post(url("changelist", model="dataset"), data)
        assert not Dataset.objects.exists()
        assert store.list() == []


def test_a_cancelled_run_at_work_is_shown_as_cancelling(admin):
    run = running()
    services.run_cancel(run, now=timezone.now())
    page = admin.get(url("change", run.pk)).content.decode()
    assert "Cancelling" in page
    assert "Cancel this run" not in page


# --- costs ---


@pytest.mark.parametrize("view", ["costs", "costs_file"])
def test_costs_are_for_whoever_may_see_runs(client, view):
    assert login_with(client, "view_dataset").get(url(view)).status_code == 403
    assert login_with(client, "view_trainingrun").get(url(view)).status_code == 200


def test_the_costs_of_a_month_that_is_none_are_those_of_this_one(admin):
    running()
    answer = admin.get(url("costs"), {"month": "2026-13"})
    assert answer.status_code == 200
    assert b"is no month such as" in answer.content
    assert b"fraud v1.1.0" in answer.content


def test_the_way_to_the_costs_is_shown_to_whoever_may_go_there(client):
    pages = [reverse("admin:index"), url("changelist")]
    login_with(client, "view_trainingrun")
    assert all(url("costs").encode() in client.get(page).content for page in pages)
    login_with(client, "view_dataset")
    assert url("costs").encode() not in client.get(pages[0]).content
