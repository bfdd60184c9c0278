"""Facts of the registry can't be changed or deleted by any usual way."""

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import ProtectedError

from deployments import services
from deployments.models import (
    Alias,
    ImmutableRow,
    ModelVersion,
    PromotionEvent,
    RuleSet,
    RuleSetEvent,
)
from tests import bundles

FACTS = {
    ModelVersion: {"metrics": {"pr_auc": 1.0}},
    RuleSet: {"source": "changed"},
    PromotionEvent: {"reason": "changed"},
    RuleSetEvent: {"reason": "changed"},
}


@pytest.fixture
def registry(fraud):
    bundles.register("1.0.0")
    services.promote(model=fraud, version="1.0.0", actor="ana", reason="first")


def stored(model):
    return list(model.objects.order_by("pk").values())


@pytest.mark.parametrize("model", FACTS, ids=lambda model: model.__name__)
class TestFacts:
    @pytest.fixture(autouse=True)
    def _unchanged(self, registry, model):
        before = stored(model)
        assert before
        yield
        assert stored(model) == before

    def test_saving_again(self, model):
        row = model.objects.first()
        for field, value in FACTS[model].items():
            setattr(row, field, value)
        with pytest.raises(ImmutableRow):
            row.save()

    def test_a_new_object_with_the_key_of_a_row(self, model):
        values = stored(model)[0]
        with pytest.raises(DatabaseError), transaction.atomic():
            model(**values | FACTS[model]).save()

    def test_deleting(self, model):
        with pytest.raises(ImmutableRow):
            model.objects.first().delete()

    def test_in_bulk(self, model):
        rows = list(model.objects.all())
        fields = list(FACTS[model])
        for change in (
            lambda: model.objects.update(**FACTS[model]),
            lambda: model.objects.bulk_update(rows, fields),
            lambda: model.objects.all().delete(),
            lambda: model.objects.bulk_create(
                rows, update_conflicts=True, update_fields=fields, unique_fields=["id"]
            ),
        ):
            with pytest.raises(ImmutableRow), transaction.atomic():
                change()

    @pytest.mark.skipif("connection.vendor != 'postgresql'", reason="triggers of PostgreSQL")
    @pytest.mark.parametrize("verb", ["UPDATE {} SET id = id", "DELETE FROM {}"])
    def test_in_sql(self, model, verb):
        table = model._meta.db_table
        with (
            pytest.raises(DatabaseError, match=f"Rows of {table} are never changed or deleted"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(verb.format(table))


def test_what_a_fact_refers_to_stays(registry, fraud):
    with pytest.raises(ProtectedError):
        fraud.delete()


def test_an_alias_may_move(registry):
    assert Alias.objects.update(updated_at="2026-01-01T00:00:00Z") == 1
