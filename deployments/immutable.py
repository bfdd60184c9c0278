"""Rows that are facts: written once, never changed."""

from typing import Any, ClassVar, NoReturn, Self

from django.db import models


class ImmutableRow(Exception):
    """A row that is a fact was about to be changed or deleted."""


class ImmutableQuerySet(models.QuerySet[Any]):
    """Rows in bulk: `update`, `bulk_update` (which calls it), upserts and `delete` are refused."""

    def update(self, **_: Any) -> NoReturn:
        raise ImmutableRow(f"{self.model.__name__} rows are never changed")

    def delete(self) -> NoReturn:
        raise ImmutableRow(f"{self.model.__name__} rows are never deleted")

    def bulk_create(self, objs: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if kwargs.get("update_conflicts") or len(args) > 2:
            raise ImmutableRow(f"{self.model.__name__} rows are never changed")
        return super().bulk_create(objs, *args, **kwargs)


class ImmutableModel(models.Model):
    """A row that can be inserted and read, and nothing else."""

    objects: ClassVar[models.Manager[Self]] = ImmutableQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise ImmutableRow(f"{type(self).__name__} {self.pk} is never changed")
        # Without it, a new object that was given the key of an existing row would update that row.
        super().save(*args, **kwargs | {"force_insert": True})

    def delete(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise ImmutableRow(f"{type(self).__name__} {self.pk} is never deleted")
