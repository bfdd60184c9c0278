"""The registry's pages, as users with different permissions get them."""

import re
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from deployments import selectors, services
from deployments.models import ApiKey, ModelVersion, PromotionEvent, RuleSet, RuleSetEvent
from tests import bundles

# A promotion, confirmed as one must be that the figures do not speak for.
ASKED = {"reason": "better", "seen_champion": "1.0.0", "anyway": "on"}
NAMES = ["modelversion", "promotionevent", "ruleset", "rulesetevent", "apikey"]


def page(name: str, view: str = "changelist", *args: object) -> str:
    return reverse(f"admin:deployments_{name}_{view}", args=args)


def text(response) -> str:
    """What a person reads: without tags, spaces collapsed."""
    body = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", response.content.decode(), flags=re.S)
    return re.sub(r"\s+", " ", body)


@pytest.fixture
def versions(fraud) -> list[ModelVersion]:
    """v1.0.0 serves, v1.1.0 could."""
    rows = [bundles.register("1.0.0"), bundles.register("1.1.0", rules="none")]
    services.promote(model=fraud, version="1.0.0", actor="ana", reason="the first")
    return rows


@pytest.fixture
def staff(client, django_user_model):
    """Logs in a staff user who holds these permissions of the app."""

    def log_in(*codenames: str):
        user = django_user_model.objects.create_user("sam", is_staff=True)
        permissions = Permission.objects.filter(codename__in=codenames)
        assert len(permissions) == len(codenames)
        user.user_permissions.set(permissions)
        client.force_login(user)
        return client

    return log_in


class TestWithoutPermission:
    """Someone who may look at everything and move nothing."""

    @pytest.fixture
    def viewer(self, staff, versions):
        services.api_key_create(name="backend", scopes=["score"], created_by="ana")
        services.promote(model=versions[0].model, version="1.1.0", actor="ana", reason="x")
        return staff(*(f"view_{name}" for name in NAMES))

    @pytest.mark.parametrize("name", NAMES)
    def test_pages_are_shown_without_buttons(self, viewer, name):
        row = {
            "modelversion": ModelVersion,
            "promotionevent": PromotionEvent,
            "ruleset": RuleSet,
            "rulesetevent": RuleSetEvent,
            "apikey": ApiKey,
        }[name].objects.first()
        for address in (page(name), page(name, "change", row.pk)):
            response = viewer.get(address)
            assert response.status_code == 200
            shown = text(response)
            for button in ("Promote", "Roll back", "Serve with it", "Revoke", "Delete", "Save"):
                assert button not in shown

    def test_moves_are_forbidden(self, viewer, fraud):
        version, rule_set = ModelVersion.objects.first(), RuleSet.objects.first()
        key = ApiKey.objects.get()
        before = selectors.live_pointer("fraud")
        for address in (
            page("modelversion", "promote", version.pk),
            page("modelversion", "rollback", fraud.pk),
            page("ruleset", "promote", rule_set.pk),
            page("ruleset", "rollback", fraud.pk),
            page("apikey", "revoke", key.pk),
            page("ruleset", "add"),
            page("apikey", "add"),
            *(page(name, "add") for name in ("modelversion", "promotionevent", "rulesetevent")),
            page("modelversion", "change", version.pk),
            page("modelversion", "delete", version.pk),
        ):
            response = viewer.post(address, {"reason": "because", "seen": "1.1.0"})
            assert response.status_code == 403, address
        assert selectors.live_pointer("fraud") == before
        key.refresh_from_db()
        assert key.revoked_at is None

    def test_the_action_of_the_list_is_not_offered(self, viewer, versions):
        selection = {"action": "promote_selected", "_selected_action": [versions[0].pk]}
        response = viewer.post(page("modelversion"), selection)
        assert response.status_code != 302 or "promote" not in response["Location"]


def test_nobody_sees_anything_without_logging_in(client, versions):
    for name in NAMES:
        assert client.get(page(name)).status_code == 302
    assert client.post(page("modelversion", "promote", versions[1].pk)).status_code == 302
    assert selectors.live_pointer("fraud").version == versions[0]


def test_even_a_superuser_can_not_edit_or_delete_facts(admin_client, versions):
    for name, model in (("modelversion", ModelVersion), ("promotionevent", PromotionEvent)):
        key = model.objects.first().pk
        assert admin_client.post(page(name, "delete", key), {"post": "yes"}).status_code == 403
        assert admin_client.post(page(name, "change", key), {"reason": "x"}).status_code == 403
        assert admin_client.get(page(name, "add")).status_code == 403


class TestPromotion:
    @pytest.fixture
    def address(self, versions) -> str:
        return page("modelversion", "promote", versions[1].pk)

    def test_the_permission_to_promote_is_enough(self, staff, address, versions):
        client = staff("view_modelversion", "promote_modelversion")
        response = client.get(address)
        assert "tuned with the rule set “none”, while “default” serves now" in text(response)
        assert 'name="rules"' not in response.content.decode()
        response = client.post(address, ASKED)
        assert response.status_code == 302
        event = PromotionEvent.objects.first()
        assert (event.actor, event.user.username, event.reason) == ("sam", "sam", "better")
        # Without the permission to move rules, asking for it moves nothing.
        assert selectors.live_pointer("fraud").rule_set.name == "default"

    def test_the_rules_must_be_chosen_when_they_differ(self, admin_client, address):
        response = admin_client.post(address, ASKED)
        assert "This field is required" in text(response)
        admin_client.post(address, ASKED | {"rules": "tuned"})
        assert selectors.live_pointer("fraud").rule_set.name == "none"

    def test_a_page_that_is_out_of_date_is_shown_anew(self, admin_client, address, fraud):
        bundles.register("1.2.0")
        services.promote(model=fraud, version="1.2.0", actor="bob", reason="meanwhile")
        response = admin_client.post(address, ASKED | {"rules": "keep"}, follow=True)
        shown = text(response)
        assert "v1.2.0 serves now. Look again." in shown
        assert "would take the place of v1.2.0" in shown
        assert selectors.live_pointer("fraud").version.version == "1.2.0"

    def test_the_champion_has_no_button(self, admin_client, versions):
        for version, expected in zip(versions, (False, True), strict=True):
            shown = text(admin_client.get(page("modelversion", "change", version.pk)))
            assert ("Promote…" in shown) is expected

    def test_a_version_of_a_sample_is_marked_and_refused(self, admin_client, fraud):
        version = bundles.register("2.0.0", deployable=False)
        assert "sample" in text(admin_client.get(page("modelversion")))
        shown = text(admin_client.get(page("modelversion", "change", version.pk)))
        assert "Promote…" not in shown
        asked = {"reason": "x", "seen_champion": "", "anyway": "on"}
        response = admin_client.post(page("modelversion", "promote", version.pk), asked)
        assert "Train it on the whole data set" in text(response)

    def test_two_selected_in_the_list_are_refused(self, admin_client, versions):
        keys = [version.pk for version in versions]
        response = admin_client.post(
            page("modelversion"),
            {"action": "promote_selected", "_selected_action": keys},
            follow=True,
        )
        assert "one serves at a time" in text(response)

    def test_test_parts_that_differ_are_said(self, admin_client, fraud, versions):
        other = bundles.register("1.2.0", metrics=bundles.METRICS | {"rows": 5_000})
        shown = text(admin_client.get(page("modelversion", "promote", other.pk)))
        assert "measured on different transactions" in shown

    def test_metrics_that_are_missing_are_no_fault(self, admin_client, fraud, versions):
        bare = bundles.register("1.2.0", metrics={})
        for view in ("change", "promote"):
            assert admin_client.get(page("modelversion", view, bare.pk)).status_code == 200
        assert admin_client.get(page("modelversion")).status_code == 200


class TestRollback:
    def test_a_second_post_of_the_same_page_does_nothing(self, admin_client, fraud, versions):
        for number in ("1.1.0", "1.2.0"):
            if number == "1.2.0":
                bundles.register(number)
            services.promote(model=fraud, version=number, actor="ana", reason="x")
        address = page("modelversion", "rollback", fraud.pk)
        for _ in range(2):
            response = admin_client.post(address, {"seen": "1.2.0"}, follow=True)
        assert "The champion was moved meanwhile" in text(response)
        assert selectors.live_pointer("fraud").version.version == "1.1.0"
        assert PromotionEvent.objects.first().reason == "Rolled back in the admin"

    def test_it_can_not_be_followed_as_a_link(self, admin_client, fraud, versions):
        assert admin_client.get(page("modelversion", "rollback", fraud.pk)).status_code == 403


class TestPinnedServer:
    def test_it_is_said_beside_the_champion(self, admin_client, settings, versions):
        settings.MODEL_VERSION = "1.1.0"
        shown = text(admin_client.get(page("modelversion")))
        assert "This server is pinned to v1.1.0 by MODEL_VERSION" in shown
        assert "fraud v1.1.0 pinned here" in shown
        assert "fraud v1.0.0 champion" in shown
        shown = text(admin_client.get(page("modelversion", "promote", versions[1].pk)))
        assert "This server is pinned to v1.1.0" in shown

    def test_a_server_that_follows_says_nothing(self, admin_client, versions):
        assert "pinned" not in text(admin_client.get(page("modelversion")))


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("modelversion", "q=1.1"),
        ("modelversion", "deployable__exact=1&created_by=test&o=2.3.4"),
        ("modelversion", "created_at__year=2026"),
        ("modelversion", "rule_set__id__exact=1"),
        ("promotionevent", "q=first&action__exact=promote"),
        ("rulesetevent", "q=default&action__exact=promote"),
        ("ruleset", "q=RULE_MAX_AMOUNT"),
        ("apikey", "q=backend&revoked_at__isempty=1"),
    ],
)
def test_search_filters_and_order(admin_client, versions, name, query):
    services.api_key_create(name="backend", scopes=["score"], created_by="ana")
    response = admin_client.get(f"{page(name)}?{query}")
    assert response.status_code == 200
    assert response.context["cl"].queryset.count() >= 0


def test_versions_sort_by_metric_and_are_found(admin_client, fraud):
    for number, value in (("1.0.0", 0.2), ("1.1.0", 0.9), ("1.2.0", 0.5)):
        bundles.register(number, metrics=bundles.METRICS | {"pr_auc": value})
    shown = admin_client.get(page("modelversion") + "?o=-2").context["cl"].result_list
    assert [version.version for version in shown] == ["1.1.0", "1.2.0", "1.0.0"]
    shown = admin_client.get(page("modelversion") + "?q=1.2").context["cl"].result_list
    assert [version.version for version in shown] == ["1.2.0"]


def test_the_list_does_not_ask_the_database_for_every_row(
    admin_client, fraud, django_assert_max_num_queries
):
    for minor in range(8):
        bundles.register(f"1.{minor}.0")
    with django_assert_max_num_queries(25):
        admin_client.get(page("modelversion"))


def test_a_version_links_to_its_training_run(admin_client, fraud):
    version = bundles.register("1.0.0", training_run_id=uuid4())
    link = reverse("admin:training_trainingrun_change", args=[version.training_run_id])
    for address in (page("modelversion"), page("modelversion", "change", version.pk)):
        assert link in admin_client.get(address).content.decode()


class TestRuleSets:
    def test_faults_are_shown_at_the_source(self, admin_client, fraud):
        source = selectors.rule_set_by_name("default").source
        wrong = source.replace("amount > 300.0", "amuont > 300.0")
        response = admin_client.post(page("ruleset", "add"), {"name": "x", "source": wrong})
        assert "amuont" in str(response.context["adminform"].form.errors["source"])
        assert not RuleSet.objects.filter(name="x").exists()

    def test_line_ends_of_a_browser_do_not_change_the_rules(self, admin_client, fraud):
        source = selectors.rule_set_by_name("default").source
        sent = {"name": "same", "source": source.replace("\n", "\r\n")}
        admin_client.post(page("ruleset", "add"), sent)
        same = selectors.rule_set_by_name("same")
        assert same.created_by == "admin"
        assert same.source == source.strip()

    def test_a_name_that_is_taken(self, admin_client, fraud):
        response = admin_client.post(page("ruleset", "add"), {"name": "none", "source": ""})
        assert "already exists" in text(response)


class TestApiKeys:
    def test_the_key_is_in_the_answer_and_nowhere_after(self, admin_client):
        sent = {"name": "backend", "scopes": ["score", "train"]}
        response = admin_client.post(page("apikey", "add"), sent)
        plain_key = re.search(r"sk_[\w-]{40,}", response.content.decode()).group()
        assert "no-store" in response["Cache-Control"]
        key = selectors.api_key_find(plain_key)
        assert (key.scopes, key.created_by) == (["score", "train"], "admin")
        for address in (page("apikey"), page("apikey", "change", key.pk), reverse("admin:index")):
            body = admin_client.get(address).content.decode()
            assert plain_key not in body
            assert key.sha256 not in body
        assert plain_key not in str(response.cookies) + str(dict(admin_client.session))

    def test_at_least_one_scope(self, admin_client):
        response = admin_client.post(page("apikey", "add"), {"name": "backend"})
        assert "This field is required" in text(response)
        assert not ApiKey.objects.exists()

    def test_revoke_the_selected(self, admin_client):
        rows = [
            services.api_key_create(name=name, scopes=["read"], created_by="")[0] for name in "abc"
        ]
        selection = {"action": "revoke_selected", "_selected_action": [row.pk for row in rows[:2]]}
        admin_client.post(page("apikey"), selection)
        assert [row.name for row in ApiKey.objects.filter(revoked_at=None)] == ["c"]


def test_rows_that_are_not_there(admin_client, fraud):
    for name in ("modelversion", "ruleset"):
        response = admin_client.get(page(name, "promote", "nothing"), follow=True)
        assert "There is no such" in text(response)
