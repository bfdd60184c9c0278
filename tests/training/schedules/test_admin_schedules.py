"""Schedules in the admin, as people with different rights use them."""

import pytest
from django.contrib.auth.models import Permission, User
from django.urls import NoReverseMatch, reverse
from django_celery_beat.models import PeriodicTask

from tests.training.schedules.support import MONDAY, make_schedule, run_due
from tests.training.support import make_dataset
from training import schedule_runs
from training.models import RetrainingSchedule, RunState, TrainingRun

pytestmark = pytest.mark.django_db
RIGHTS = ("view", "add", "change", "delete", "run")


def login_with(client, *codenames: str):
    user, _ = User.objects.get_or_create(username="bob", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client.force_login(user)
    return client


def may(client, *rights: str):
    return login_with(client, *(f"{right}_retrainingschedule" for right in rights))


def url(view: str, *args) -> str:
    return reverse(f"admin:training_retrainingschedule_{view}", args=args)


def form(**changes) -> dict[str, object]:
    facts = {
        "name": "nightly", "model": "fraud", "enabled": "on", "crontab": "0 3 * * *",
        "time_zone": "UTC", "dataset": "sales", "then": "propose", "launcher": "local", "seed": 0,
    }  # fmt: skip
    return facts | changes


def test_each_step_takes_its_permission(fraud, client):
    schedule = make_schedule()
    steps = {
        "view": ("get", url("change", schedule.pk)),
        "add": ("get", url("add")),
        "change": ("get", url("edit", schedule.pk)),
        "delete": ("get", url("remove", schedule.pk)),
        "run": ("post", url("run", schedule.pk)),
    }
    for right, (method, address) in steps.items():
        others = [each for each in RIGHTS if each not in (right, "change" * (right == "view"))]
        assert getattr(may(client, *others), method)(address).status_code == 403, right
        assert getattr(may(client, right), method)(address).status_code in (200, 302), right
    assert may(client, "view", "run").post(url("toggle", schedule.pk)).status_code == 403
    assert may(client, "view").post(url("remove", schedule.pk)).status_code == 403
    assert RetrainingSchedule.objects.get().enabled


def test_buttons_and_actions_are_those_that_one_may_use(fraud, client):
    schedule = make_schedule()
    page = may(client, "view").get(url("change", schedule.pk)).content.decode()
    for button in ("Run now", "Disable", "Delete…"):
        assert button not in page
    page = may(client, "view", "run").get(url("changelist")).content.decode()
    assert "run_selected" in page
    assert "remove_selected" not in page
    assert "enable_selected" not in page


def test_nothing_changes_by_a_link(fraud, client):
    schedule = make_schedule()
    may(client, *RIGHTS)
    for view in ("run", "toggle"):
        assert client.get(url(view, schedule.pk)).status_code == 403
    client.get(url("remove", schedule.pk))
    schedule.refresh_from_db()
    assert (schedule.enabled, schedule.requested_at, schedule.deleted_at) == (True, None, None)


def test_only_who_may_promote_makes_a_schedule_that_promotes(fraud, client):
    make_dataset("sales")
    may(client, *RIGHTS)
    answer = client.post(url("add"), form(then="promote"))
    assert "It takes the permission" in answer.content.decode()
    assert not RetrainingSchedule.objects.exists()
    rights = [f"{right}_retrainingschedule" for right in RIGHTS]
    login_with(client, *rights, "promote_modelversion")
    assert client.post(url("add"), form(then="promote")).status_code == 302
    assert RetrainingSchedule.objects.get().then == "promote"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Nightly!"}, "Use lower-case letters"),
        ({"crontab": "x"}, "1 fields were given where five are needed"),
        ({"dataset": ""}, "Give a number of days of traffic"),
        ({"days": "30"}, "Give a number of days of traffic"),
        ({"search": "1"}, "is not a number of configurations"),
        ({"label_delay": "soon"}, "is not a duration"),
        ({"memory": "lots"}, "no amount of memory"),
        ({"launcher": "cloud-run"}, "needs GOOGLE_CLOUD_PROJECT"),
        ({"machine_type": "e2-medium"}, "does not have it"),
        ({"time_zone": "Mars"}, "Select a valid choice"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_fault_is_shown_beside_its_field(fraud, client, changes, message):
    make_dataset("sales")
    answer = may(client, *RIGHTS).post(url("add"), form(**changes))
    assert answer.status_code == 200
    page = answer.content.decode()
    name = next(iter(changes))
    shown = "days" if name == "dataset" else name
    row = page.split(f'name="{shown}"')[0].rsplit('class="form-row', 1)[1]
    assert message in row
    assert not RetrainingSchedule.objects.exists()
    assert not PeriodicTask.objects.exists()


def test_what_was_given_is_there_when_it_is_changed(fraud, client):
    make_dataset("sales")
    given = form(
        label_delay="2d", without="labels", search="5", memory_limit="6GB", cpu="2", memory="4Gi",
        rules="none", timeout="",
    )  # fmt: skip
    may(client, *RIGHTS).post(url("add"), given)
    schedule = RetrainingSchedule.objects.get()
    assert schedule.resources == {"cpu": 2, "memory_mb": "4Gi"}
    page = client.get(url("edit", schedule.pk))
    initial = page.context["form"].initial
    for name in ("label_delay", "without", "rules"):
        assert initial[name] == given[name], name
    assert initial["search"] == 5
    assert (initial["cpu"], initial["memory"]) == (2, "4Gi")
    again = {name: value for name, value in initial.items() if value is not None}
    answer = client.post(url("edit", schedule.pk), again | {"enabled": "on"})
    assert answer.status_code == 302, answer.context["form"].errors
    before = {field.name: getattr(schedule, field.name) for field in schedule._meta.fields}
    schedule.refresh_from_db()
    assert before == {field.name: getattr(schedule, field.name) for field in schedule._meta.fields}


def test_the_list_tells_the_last_run_and_what_went_wrong(fraud, client):
    schedule = make_schedule(now=MONDAY)
    run = run_due(schedule, MONDAY.replace(day=3))
    TrainingRun.objects.filter(pk=run.pk).update(state=RunState.FAILED)
    RetrainingSchedule.objects.update(message="v1.0.0 failed. <No frauds>")
    page = may(client, "view").get(url("changelist")).content.decode()
    assert "v1.0.0 failed. &lt;No frauds&gt;" in page
    assert ">Failed<" in page
    page = client.get(url("change", schedule.pk)).content.decode()
    assert "&lt;No frauds&gt;" in page
    assert "v1.0.0 on the data set “sales”" in page


def test_a_deleted_schedule_is_gone_and_its_runs_stay(fraud, client):
    schedule = make_schedule()
    run_due(schedule, MONDAY.replace(day=3))
    answer = may(client, *RIGHTS).post(url("remove", schedule.pk), follow=True)
    assert "Its runs and versions stay." in answer.content.decode()
    assert client.get(url("change", schedule.pk), follow=True).redirect_chain
    assert TrainingRun.objects.get().schedule_id == schedule.pk
    assert schedule_runs.schedules_due(now=MONDAY.replace(day=20)) == []


def test_the_pages_of_beat_are_not_in_the_admin(client):
    for name in ("periodictask", "crontabschedule", "intervalschedule", "clockedschedule"):
        with pytest.raises(NoReverseMatch):
            reverse(f"admin:django_celery_beat_{name}_changelist")
    client.force_login(User.objects.create_superuser("ada"))
    assert "eriodic" not in client.get(reverse("admin:index")).content.decode()
