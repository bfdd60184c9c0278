"""Labels as people see them, and how they state one."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from scoring import selectors
from scoring.models import Attempt, ConfirmedFraud, Label, ScoreRecord
from tests.scoring.conftest import Api
from tests.scoring.requests import request

RECORDS = "/admin/scoring/scorerecord/"
LABELS = "/admin/scoring/label/"
MADE = "2026-01-23T12:00:00Z"
STATED = {
    "label": "fraud", "known_at_0": "2026-02-01", "known_at_1": "08:30:00", "source": "Analyst",
    "note": "The owner\r\ncalled",
}  # fmt: skip


def person(*permissions: str) -> Client:
    """Someone of the staff who may do what is named."""
    user = User.objects.create_user("-".join(["joe", *permissions]), is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def browser(api: Api) -> Client:
    """Someone who may see and do everything."""
    client = Client()
    client.force_login(User.objects.create_superuser("ana"))
    return client


@pytest.fixture
def labelled(api: Api) -> Api:
    """Decisions about t_fraud, t_fine (first taken for fraud) and t_none; a label of an unknown."""
    for name in ("t_fraud", "t_fine", "t_none"):
        api.score(request(transaction_id=name, created_at=MADE))

    def label(name: str, verdict: str, **more: str) -> dict[str, str]:
        return {"transaction_id": name, "label": verdict, "known_at": "2026-02-01T00:00:00Z"} | more

    api.labels([
        label("t_fraud", "fraud", source="chargeback", note="Reason 10.4"),
        label("t_fine", "fraud", source="customer"),
        label("t_fine", "legitimate", source="analyst"),
        label("x_later", "fraud", source="chargeback"),
    ])  # fmt: skip
    return api


def page_of(name: str, page: str = "change") -> str:
    return f"{RECORDS}{ScoreRecord.objects.get(attempt__transaction_id=name).pk}/{page}/"


def listed(browser: Client, address: str, query: str) -> list[Any]:
    response = browser.get(f"{address}?{query}")
    assert response.status_code == 200, query
    return list(response.context["cl"].result_list)


class TestStating:
    def test_from_the_record(self, browser: Client, labelled: Api) -> None:
        address = page_of("t_none", "label")
        assert address in browser.get(page_of("t_none")).content.decode()
        assert browser.get(address).status_code == 200
        response = browser.post(address, STATED, follow=True)
        assert response.redirect_chain == [(page_of("t_none"), 302)]
        assert "The label of “t_none” is kept." in response.content.decode()
        kept = Label.objects.first()
        assert kept is not None
        assert (kept.transaction_id, kept.verdict, kept.source) == ("t_none", "fraud", "analyst")
        assert kept.known_at == datetime(2026, 2, 1, 8, 30, tzinfo=UTC)
        assert (kept.note, kept.stated_by) == ("The owner\ncalled", "ana")
        assert ConfirmedFraud.objects.filter(attempt__transaction_id="t_none").count() == 2

    def test_correction(self, browser: Client, labelled: Api) -> None:
        browser.post(page_of("t_fraud", "label"), STATED | {"label": "legitimate"})
        assert not ConfirmedFraud.objects.exists()
        page = browser.get(page_of("t_fraud")).content.decode()
        assert "fraud, replaced" in page
        assert page.index("The owner<br>called") < page.index("Reason 10.4")

    def test_same_again_says_so(self, browser: Client, labelled: Api) -> None:
        for says in ("“t_none” is kept", "nothing changed"):
            response = browser.post(page_of("t_none", "label"), STATED, follow=True)
            assert says in response.content.decode()
        assert Label.objects.filter(transaction_id="t_none").count() == 1

    @pytest.mark.parametrize(("change", "field", "says"), [
        ({"label": ""}, "label", "required"),
        ({"label": "maybe"}, "label", "valid choice"),
        ({"known_at_0": ""}, "known_at", "required"),
        ({"known_at_0": "", "known_at_1": ""}, "known_at", "required"),
        ({"known_at_0": "2999-01-01"}, "known_at", "Later than"),
        ({"known_at_0": "2026-01-23", "known_at_1": "11:59:59"}, "known_at", "Before the trans"),
        ({"source": "x" * 33}, "source", "at most 32 characters"),
        ({"source": "a\x07b"}, "source", "no control characters"),
        ({"note": "x" * 1_001}, "note", "at most 1000 characters"),
        ({"note": "a\x07b"}, "note", "no control characters"),
    ])  # fmt: skip
    def test_faults_are_shown_at_their_fields(
        self, browser: Client, labelled: Api, change: Any, field: str, says: str
    ) -> None:
        before = Label.objects.count()
        response = browser.post(page_of("t_none", "label"), STATED | change)
        assert response.status_code == 200
        errors = response.context["form"].errors
        assert list(errors) == [field]
        assert says in str(errors)
        assert Label.objects.count() == before

    def test_time_is_in_the_zone_of_the_pages(
        self, browser: Client, labelled: Api, settings: Any
    ) -> None:
        settings.TIME_ZONE = "Europe/Paris"
        browser.post(page_of("t_none", "label"), STATED)
        kept = Label.objects.first()
        assert kept is not None
        assert kept.known_at == datetime(2026, 2, 1, 7, 30, tzinfo=UTC)
        assert "2026-02-01 08:30" in browser.get(page_of("t_none")).content.decode()
        assert "2026-02-01 08:30" in browser.get(LABELS).content.decode()

    def test_record_that_is_not_there(self, browser: Client, labelled: Api) -> None:
        response = browser.get(f"{RECORDS}999999/label/", follow=True)
        assert "There is no such score record" in response.content.decode()

    def test_only_who_may(self, labelled: Api) -> None:
        address = page_of("t_none", "label")
        viewer, other = person("view_scorerecord"), person("add_label")
        assert address not in viewer.get(page_of("t_none")).content.decode()
        for client in (viewer, other):
            assert client.get(address).status_code == 403
            assert client.post(address, STATED).status_code == 403
        assert Client().post(address, STATED).status_code == 302
        assert Label.objects.filter(transaction_id="t_none").count() == 0
        allowed = person("view_scorerecord", "add_label")
        assert allowed.post(address, STATED).status_code == 302
        assert Label.objects.filter(transaction_id="t_none").count() == 1


class TestRecords:
    @pytest.mark.parametrize(("query", "expected"), [
        ("label=fraud", {"t_fraud"}), ("label=legitimate", {"t_fine"}),
        ("label=none", {"t_none"}), ("label=other", {"t_none"}), ("label=fraud&q=t_fine", set()),
    ])  # fmt: skip
    def test_filter_by_the_label_that_counts(
        self, browser: Client, labelled: Api, query: str, expected: set[str]
    ) -> None:
        found = listed(browser, RECORDS, query)
        assert {record.attempt.transaction_id for record in found} == expected

    @pytest.mark.parametrize("label", ["fraud", "legitimate", "none"])
    def test_filter_reads_no_more_than_a_page(self, label: str) -> None:
        # PostgreSQL compares NOT IN (SELECT …) with every row of it, for each decision.
        found = selectors.records_with_label(ScoreRecord.objects.all(), label)
        assert "EXISTS(SELECT" in str(found.query)
        assert "IN (SELECT" not in str(found.query)

    def test_list_shows_the_label_that_counts(self, browser: Client, labelled: Api) -> None:
        page = browser.get(RECORDS).content.decode()
        rows = {
            name: page.split(f">{name}</a>")[1].split("</tr>")[0] for name in ("t_fraud", "t_fine")
        }
        assert ">fraud<" in rows["t_fraud"]
        assert ">legitimate<" in rows["t_fine"]

    def test_page_shows_all_that_was_stated(self, browser: Client, labelled: Api) -> None:
        page = browser.get(page_of("t_fine")).content.decode()
        assert page.index("legitimate") < page.index("fraud, replaced")
        for text in ("analyst", "customer", "2026-02-01 00:00", "test"):
            assert text in page
        assert "None yet." in browser.get(page_of("t_none")).content.decode()

    def test_who_stated_what_is_for_those_who_may_view_labels(self, labelled: Api) -> None:
        labelled.labels([
            {"transaction_id": "t_fraud", "label": "fraud", "known_at": "2026-02-02T00:00:00Z",
             "source": "informant", "note": "Heard on the phone"},
        ])  # fmt: skip
        may_state = "view_scorerecord", "add_label"
        for permissions, may_view in ((may_state, False), ((*may_state, "view_label"), True)):
            reader = person(*permissions)
            page = reader.get(page_of("t_fraud")).content.decode()
            form = reader.get(page_of("t_fraud", "label")).content.decode()
            assert ">fraud<" in page
            for told in ("informant", "Heard on the phone", "Stated by"):
                assert (told in page, told in form) == (may_view, may_view), told


class TestList:
    def test_last_received_first(self, browser: Client, labelled: Api) -> None:
        found = listed(browser, LABELS, "")
        assert [label.transaction_id for label in found] == [
            "x_later",
            "t_fine",
            "t_fine",
            "t_fraud",
        ]

    @pytest.mark.parametrize(("query", "expected"), [
        ("verdict__exact=fraud", ["x_later", "t_fine", "t_fraud"]),
        ("state=counts", ["x_later", "t_fine", "t_fraud"]), ("state=replaced", ["t_fine"]),
        ("state=counts&verdict__exact=fraud", ["x_later", "t_fraud"]),
        ("transaction=unknown", ["x_later"]),
        ("transaction=known", ["t_fine", "t_fine", "t_fraud"]),
        ("source=chargeback", ["x_later", "t_fraud"]), ("q=t_fine", ["t_fine", "t_fine"]),
        ("q=+t_fraud+", ["t_fraud"]), ("q=t_", []), ("q=%27%3B--%25s", []),
        ("received_at__lt=2020-01-01T00:00:00Z", []),
        ("received_at__gte=2020-01-01T00:00:00Z", ["x_later", "t_fine", "t_fine", "t_fraud"]),
    ])  # fmt: skip
    def test_filters_and_search(
        self, browser: Client, labelled: Api, query: str, expected: list[str]
    ) -> None:
        assert [label.transaction_id for label in listed(browser, LABELS, query)] == expected

    def test_unknown_transactions_are_marked_and_known_ones_are_links(
        self, browser: Client, labelled: Api
    ) -> None:
        page = browser.get(LABELS).content.decode()
        assert ">unknown<" in page.split("x_later")[1].split("</td>")[0]
        assert f'href="{page_of("t_fraud")}"' in page
        labelled.score(request(transaction_id="x_later"))
        assert f'href="{page_of("x_later")}"' in browser.get(LABELS).content.decode()

    def test_transactions_that_were_only_loaded_as_history_are_marked(
        self, browser: Client, labelled: Api
    ) -> None:
        Attempt.objects.create(
            transaction_id="x_later", source_wallet_id="alice", destination_wallet_id="bob",
            source_time=0, source_event=b"", destination_time=0, destination_event=b"",
        )  # fmt: skip
        page = browser.get(LABELS).content.decode()
        assert ">not decided here<" in page.split("x_later")[1].split("</td>")[0]
        pk = Label.objects.get(transaction_id="x_later").pk
        assert "Label this transaction" not in browser.get(f"{LABELS}{pk}/change/").content.decode()

    def test_page_of_a_label(self, browser: Client, labelled: Api) -> None:
        first = Label.objects.get(transaction_id="t_fine", verdict="fraud")
        page = browser.get(f"{LABELS}{first.pk}/change/").content.decode()
        shown = ("fraud, replaced", "customer", "legitimate", page_of("t_fine"))
        for text in (*shown, page_of("t_fine", "label")):
            assert text in page

    def test_same_queries_for_any_number_of_rows(
        self, browser: Client, labelled: Api, django_assert_max_num_queries: Any
    ) -> None:
        labelled.labels([
            {"transaction_id": f"x{at}", "label": "fraud", "known_at": MADE} for at in range(60)
        ])  # fmt: skip
        with django_assert_max_num_queries(8):
            assert len(listed(browser, LABELS, "")) == 50
        assert len(listed(browser, LABELS, "p=2")) == 14

    def test_hostile_texts_are_shown_as_text(self, browser: Client, labelled: Api) -> None:
        script = "<script>alert(1)</script>"
        labelled.score(request(transaction_id=script, created_at=MADE))
        known = "2026-02-01T00:00:00Z"
        label = {"transaction_id": script, "label": "fraud", "known_at": known, "note": script}
        labelled.labels([label | {"source": script}, label | {"transaction_id": script + "?"}])
        pk = Label.objects.latest("id").pk
        for address in (
            LABELS,
            f"{LABELS}{pk}/change/",
            RECORDS,
            page_of(script),
            page_of(script, "label"),
        ):
            assert script not in browser.get(address).content.decode()

    def test_nothing_can_be_added_changed_or_deleted_there(
        self, browser: Client, labelled: Api
    ) -> None:
        before = list(Label.objects.values())
        page = f"{LABELS}{before[0]['id']}/"
        assert browser.get(f"{LABELS}add/").status_code == 403
        assert browser.post(f"{page}change/", {"verdict": "fraud"}).status_code == 403
        assert browser.post(f"{page}delete/", {"post": "yes"}).status_code == 403
        assert list(Label.objects.values()) == before

    def test_only_who_may_see_them(self, labelled: Api) -> None:
        assert person("view_scorerecord").get(LABELS).status_code == 403
        assert person("view_label").get(LABELS).status_code == 200
