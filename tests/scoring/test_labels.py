"""`POST /labels`: what is kept, what is repeated, and what is refused."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from deployments.models import ImmutableRow
from scoring.labels import LabelReport
from scoring.models import ConfirmedFraud, Label, ScoreRecord
from tests.scoring.conftest import Api
from tests.scoring.requests import request

MADE = "2026-01-23T12:00:00Z"
KNOWN = "2026-02-01T08:30:00Z"


def label(transaction_id: str, verdict: str = "fraud", **changes: Any) -> dict[str, Any]:
    return {"transaction_id": transaction_id, "label": verdict, "known_at": KNOWN} | changes


def answer(recorded: int, repeated: int = 0, unknown: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"recorded": recorded, "repeated": repeated, "unknown": list(unknown)}


def frauds() -> set[str]:
    """The transactions in the timelines; each is in both of its wallets'."""
    rows = list(ConfirmedFraud.objects.values_list("attempt__transaction_id", "side"))
    names = {name for name, _ in rows}
    assert sorted(rows) == sorted(
        (name, side) for name in names for side in ("source", "destination")
    )
    return names


@pytest.fixture
def scored(api: Api) -> Api:
    """a1, a2 and b1 were scored."""
    for name in ("a1", "a2", "b1"):
        assert api.score(request(transaction_id=name, created_at=MADE)).status_code == 200
    return api


def test_one(scored: Api) -> None:
    before = timezone.now()
    response = scored.labels(label("a1", source="Chargeback", note="Reason 10.4\nby post"))
    assert response.status_code == 200
    assert response.json() == answer(1)
    kept = Label.objects.get()
    assert (kept.transaction_id, kept.verdict) == ("a1", "fraud")
    assert kept.known_at == datetime(2026, 2, 1, 8, 30, tzinfo=UTC)
    assert before <= kept.received_at <= timezone.now()
    assert (kept.source, kept.note) == ("chargeback", "Reason 10.4\nby post")
    assert kept.stated_by == "test"
    assert frauds() == {"a1"}


def test_list_with_both_verdicts(scored: Api) -> None:
    response = scored.labels([label("a1"), label("a2", "legitimate"), label("b1")])
    assert response.json() == answer(3)
    assert frauds() == {"a1", "b1"}


def test_unknown_transactions_are_kept_and_reported_once_each(scored: Api) -> None:
    sent = [label("x2"), label("a1"), label("x1"), label("x2", "legitimate")]
    assert scored.labels(sent).json() == answer(4, unknown=("x2", "x1"))
    assert Label.objects.count() == 4
    assert frauds() == {"a1"}
    assert scored.labels(label("x1")).json() == answer(0, 1, ("x1",))


def test_label_before_its_transaction_is_found_when_it_comes(scored: Api) -> None:
    scored.labels([label("later"), label("fine", "legitimate"), label("never")])
    scored.labels([label("cleared"), label("cleared", "legitimate")])
    for name in ("later", "fine", "cleared"):
        assert scored.score(request(transaction_id=name)).status_code == 200
    assert frauds() == {"later"}
    assert scored.score(request(transaction_id="other")).status_code == 200
    assert frauds() == {"later"}


def test_changed_verdict_is_another_row_and_the_last_counts(scored: Api) -> None:
    for known, verdict in enumerate(("fraud", "legitimate", "fraud", "fraud", "legitimate")):
        sent = label("a1", verdict, known_at=f"2026-02-0{known + 1}T00:00:00Z")
        assert scored.labels(sent).json() == answer(1)
        assert frauds() == ({"a1"} if verdict == "fraud" else set())
    assert Label.objects.filter(transaction_id="a1").count() == 5


def test_last_of_one_request_counts(scored: Api) -> None:
    scored.labels([label("a1"), label("a1", "legitimate"), label("a2", "legitimate"), label("a2")])
    assert frauds() == {"a2"}


@pytest.mark.parametrize("change", [
    {"known_at": "2026-02-01T08:30:00.000001Z"}, {"source": "analyst"}, {"note": "seen twice"},
])  # fmt: skip
def test_same_verdict_with_something_new_is_another_statement(scored: Api, change: Any) -> None:
    scored.labels(label("a1"))
    assert scored.labels(label("a1", **change)).json() == answer(1)
    assert frauds() == {"a1"}


@pytest.mark.parametrize("same", [
    {}, {"known_at": "2026-02-01T09:30:00+01:00"}, {"known_at": "2026-02-01T08:30:00"},
    {"source": None, "note": None}, {"note": ""}, {"more": 1},
])  # fmt: skip
def test_same_statement_again_changes_nothing(scored: Api, same: dict[str, Any]) -> None:
    scored.labels(label("a1"))
    assert scored.labels([label("a1", **same), label("a2"), label("a2")]).json() == answer(1, 2)
    assert Label.objects.count() == 2


def test_old_statement_sent_again_does_not_undo_a_correction(scored: Api) -> None:
    scored.labels(label("a1"))
    scored.labels(label("a1", "legitimate", source="analyst"))
    assert scored.labels(label("a1")).json() == answer(0, 1)
    assert frauds() == set()


def test_statement_that_is_kept_twice_counts_as_of_its_last_row(scored: Api) -> None:
    kept = [("fraud", "backfill"), ("legitimate", "analyst"), ("fraud", "backfill")]
    Label.objects.bulk_create(
        Label(
            transaction_id="later", verdict=verdict, source=source,
            known_at=KNOWN, received_at=KNOWN, stated_by="test",
        )
        for verdict, source in kept
    )  # fmt: skip
    scored.score(request(transaction_id="later"))
    assert frauds() == {"later"}
    assert scored.labels(label("later", source="chargeback")).json() == answer(1)
    assert frauds() == {"later"}
    assert scored.labels(label("later", "legitimate", source="owner")).json() == answer(1)
    assert frauds() == set()


def test_totals_count_each_wallets_frauds_in_the_order_of_its_timeline(api: Api) -> None:
    wallets = [("alice", "bob"), ("carol", "bob"), ("alice", "alice"), ("alice", "bob")]
    for at, (source, destination) in enumerate(wallets):
        body = request(
            transaction_id=f"t{at}", source_wallet_id=source, destination_wallet_id=destination,
            created_at=f"2026-01-23T12:0{at}:00Z",
        )  # fmt: skip
        api.score(body)
    api.labels(label("t3"))
    api.labels([label("t2"), label("t0"), label("t1")])
    assert timelines() == {
        ("source", "alice"): [("t0", 1), ("t2", 2), ("t3", 3)],
        ("source", "carol"): [("t1", 1)],
        ("destination", "bob"): [("t0", 1), ("t1", 2), ("t3", 3)],
        ("destination", "alice"): [("t2", 1)],
    }
    api.labels([label("t0", "legitimate"), label("t2", "legitimate")])
    assert timelines() == {
        ("source", "alice"): [("t3", 1)],
        ("source", "carol"): [("t1", 1)],
        ("destination", "bob"): [("t1", 1), ("t3", 2)],
    }


def timelines() -> dict[tuple[str, str], list[tuple[str, int]]]:
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for fraud in ConfirmedFraud.objects.select_related("attempt").order_by("time", "attempt"):
        entry = (fraud.attempt.transaction_id, fraud.total)
        found.setdefault((fraud.side, fraud.wallet_id), []).append(entry)
    return found


class TestFeatures:
    """Decisions see a fraud from its receipt, once the label delay (7 days) has passed."""

    NAMES = ("dst_fraud_count_1d", "dst_fraud_ratio_1d", "src_fraud_count_7d")

    def send(self, api: Api, name: str, day: str) -> list[float]:
        """Score alice's payment to bob at noon of a day of January; what it saw of frauds."""
        made = f"2026-01-{day}T12:00:00Z"
        assert api.score(request(transaction_id=name, created_at=made)).status_code == 200
        features = ScoreRecord.objects.get(attempt__transaction_id=name).features
        return [features[feature] for feature in self.NAMES]

    def test_label_that_is_told_in_time(self, api: Api) -> None:
        self.send(api, "t1", "01")
        api.labels([label("t1", known_at="2026-01-02T00:00:00Z")])
        assert self.send(api, "t2", "01") == [0, 0, 0]
        assert self.send(api, "t8", "08") == [0, 0, 0]  # not more than 7 days yet
        assert self.send(api, "t9", "09") == [1, 0.5, 1]  # of t1 and t2
        assert self.send(api, "t10", "10") == [0, 0, 1]

    def test_label_that_is_told_late(self, api: Api) -> None:
        self.send(api, "t1", "01")
        assert self.send(api, "t9", "09") == [0, 0, 0]
        api.labels([label("t1")])
        assert self.send(api, "again", "09") == [1, 1, 1]

    def test_label_that_came_before_its_transaction(self, api: Api) -> None:
        api.labels([label("t1")])
        assert self.send(api, "t1", "01") == [0, 0, 0]
        assert self.send(api, "t9", "09") == [1, 1, 1]

    def test_correction(self, api: Api) -> None:
        self.send(api, "t1", "01")
        api.labels([label("t1")])
        assert self.send(api, "t9", "09") == [1, 1, 1]
        api.labels([label("t1", "legitimate")])
        assert self.send(api, "again", "09") == [0, 0, 0]

    def test_decision_that_was_made_stays(self, api: Api) -> None:
        self.send(api, "t1", "01")
        self.send(api, "t9", "09")
        api.labels([label("t1")])
        response = api.score(request(transaction_id="t9", created_at="2026-01-09T12:00:00Z"))
        assert response["Idempotent-Replayed"] == "true"
        kept = ScoreRecord.objects.get(attempt__transaction_id="t9").features
        assert kept["dst_fraud_count_1d"] == 0


class TestTimes:
    def test_known_in_the_future_is_refused_whole(self, scored: Api) -> None:
        soon = (timezone.now() + timedelta(minutes=6)).isoformat()
        response = scored.labels([label("a1"), label("a2", known_at=soon)])
        assert response.status_code == 400
        assert response.json()["code"] == "INVALID_REQUEST"
        (error,) = response.json()["errors"]
        assert error["field"] == "labels[1].known_at"
        assert "server's clock" in error["message"]
        assert not Label.objects.exists()
        assert frauds() == set()

    def test_clocks_may_differ_by_five_minutes(self, scored: Api) -> None:
        soon = (timezone.now() + timedelta(minutes=4)).isoformat()
        assert scored.labels(label("a1", known_at=soon)).json() == answer(1)

    def test_known_before_the_transaction_was_made_is_refused_whole(self, scored: Api) -> None:
        early = "2026-01-23T11:59:59.999999Z"
        response = scored.labels(
            [label("a1", known_at=early), label("a2"), label("b1", known_at=early)]
        )
        assert response.status_code == 400
        assert [error["field"] for error in response.json()["errors"]] == [
            "labels[0].known_at", "labels[2].known_at",
        ]  # fmt: skip
        assert "2026-01-23T12:00:00+00:00" in response.json()["errors"][0]["message"]
        assert not Label.objects.exists()

    @pytest.mark.parametrize("known", ["2026-01-23T11:59:59Z", "2999-01-01T00:00:00Z"])
    def test_field_is_named_as_it_was_sent(self, scored: Api, known: str) -> None:
        sent = label("a1", known_at=known)
        for body, name in ((sent, "known_at"), ([sent], "labels[0].known_at")):
            problem = scored.labels(body).json()
            assert [error["field"] for error in problem["errors"]] == [name]

    def test_known_at_the_moment_it_was_made_is_taken(self, scored: Api) -> None:
        assert scored.labels(label("a1", known_at=MADE)).json() == answer(1)

    def test_an_unknown_transaction_may_be_of_any_time(self, scored: Api) -> None:
        sent = label("x1", known_at="1970-01-01T00:00:00Z")
        assert scored.labels(sent).json() == answer(1, unknown=("x1",))


@pytest.mark.parametrize(("field", "value"), [
    ("transaction_id", None), ("transaction_id", ""), ("transaction_id", 5),
    ("transaction_id", "x" * 65), ("transaction_id", "a\nb"), ("label", None), ("label", "Fraud"),
    ("label", True), ("label", []), ("known_at", None), ("known_at", ""), ("known_at", "soon"),
    ("known_at", 5), ("known_at", "9999-12-31T23:59:59Z"), ("known_at", "1969-12-31T23:59:59Z"),
    ("source", ""), ("source", "x" * 33), ("source", 5), ("note", "x" * 1_001), ("note", "a\0b"),
    ("note", 5), ("note", "\ud800"), ("transaction_id", "\ud800"), ("label", "\ud800"),
    ("known_at", "\ud800"), ("source", "\ud800"),
])  # fmt: skip
def test_wrong_fields_are_named(scored: Api, field: str, value: Any) -> None:
    for body, name in (
        (label("a1") | {field: value}, field),
        ([label("a1"), label("a2") | {field: value}], f"labels[1].{field}"),
    ):
        response = scored.labels(body)
        assert response.status_code == 400
        assert [error["field"] for error in response.json()["errors"]] == [name]
    assert not Label.objects.exists()


def test_missing_fields_are_named_together(scored: Api) -> None:
    problem = scored.labels([{}, 5, label("a1", note=1)]).json()
    assert [error["field"] for error in problem["errors"]] == [
        "labels[0].transaction_id", "labels[0].label", "labels[0].known_at", "labels[1]",
        "labels[2].note",
    ]  # fmt: skip


@pytest.mark.parametrize("body", [[], "x", None, 5, b"{", b"\xff", [label("a1")] * 1_001])
def test_bodies_that_are_no_labels(scored: Api, body: Any) -> None:
    response = scored.labels(body)
    assert response.status_code == 400
    assert response.json()["errors"]
    assert not Label.objects.exists()


def test_a_thousand_at_once(scored: Api, django_assert_max_num_queries: Any) -> None:
    sent = [label(("a1", "a2", "b1")[at % 3], note=str(at)) for at in range(990)]
    sent += [label(f"x{at}") for at in range(10)]
    with django_assert_max_num_queries(16):
        response = scored.labels(sent)
    assert response.json() == answer(1_000, unknown=tuple(f"x{at}" for at in range(10)))
    assert frauds() == {"a1", "a2", "b1"}


def test_thousand_notes_of_a_thousand_characters_fit(scored: Api) -> None:
    sent = [label(f"x{at}", note="€" * 1_000, source="s" * 32) for at in range(1_000)]
    body = json.dumps(sent, ensure_ascii=False).encode()
    assert len(body) > 3_000_000
    assert scored.labels(body).json()["recorded"] == 1_000


def test_more_bytes_than_any_labels_need_are_refused(scored: Api) -> None:
    response = scored.labels([label("a1", more="x" * 4_000_000)])
    assert response.status_code == 413
    assert "4,000,000" in response.json()["detail"]


def test_source_in_lower_case_is_never_longer(scored: Api) -> None:
    sent = [label("a1", source="İ" * 32), label("a2", source="ÇĞŞ")]
    assert scored.labels(sent).json() == answer(2)
    assert scored.labels(sent).json() == answer(0, 2)
    assert set(Label.objects.values_list("source", flat=True)) == {"i" * 32, "çğş"}


def test_lower_case_of_any_character_is_one() -> None:
    characters = (chr(code) for code in range(0x20, 0x110000) if chr(code).isupper())
    for character in characters:
        report = LabelReport(
            transaction_id="a1", label="fraud", known_at=timezone.now(), source=character
        )
        assert report.source is not None
        assert len(report.source) == 1


def test_statements_are_never_changed(scored: Api) -> None:
    scored.labels(label("a1"))
    kept = Label.objects.get()
    kept.verdict = "legitimate"
    for change in (kept.save, kept.delete, Label.objects.all().delete):
        with pytest.raises(ImmutableRow):
            change()
    with pytest.raises(ImmutableRow):
        Label.objects.update(verdict="legitimate")


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="triggers of PostgreSQL")
@pytest.mark.parametrize(
    "verb", ["UPDATE scoring_label SET note = ''", "DELETE FROM scoring_label"]
)
def test_statements_are_never_changed_in_sql(scored: Api, verb: str) -> None:
    scored.labels(label("a1"))
    with (
        pytest.raises(DatabaseError, match="never changed or deleted"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(verb)
