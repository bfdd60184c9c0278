"""Each attempt's place in the timeline of its destination wallet, also for those that are there.

The processes that score have to be stopped meanwhile: an attempt that the previous version wrote
would be missing from the running totals. From here on the database refuses one.
"""

import struct
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from django.db import connections, migrations, models

# As engine.features packed them when this was written: what a migration does never changes.
SOURCE_AMOUNT = struct.Struct("<q")
SOURCE_AMOUNT_AT = 8
INCOMING = struct.Struct("<4q")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CHUNK = 5_000


def wallet_code(wallet_id):
    digest = blake2b(wallet_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def incoming(latest, attempt):
    """The event of an attempt that follows `latest`, the wallet's time, count and amount sum."""
    time, count, total = latest
    (amount,) = SOURCE_AMOUNT.unpack_from(attempt.source_event, SOURCE_AMOUNT_AT)
    created_at = (attempt.record.created_at - EPOCH) // timedelta(microseconds=1)
    wrapped = (total + amount + (1 << 63)) % (1 << 64) - (1 << 63)
    return max(time, created_at), count + 1, wrapped


def fill(apps, schema_editor):
    """In the order of acceptance, which is that of the ids, a chunk at a time."""
    connection = connections[schema_editor.connection.alias]
    attempts = apps.get_model("scoring", "Attempt").objects.using(connection.alias)
    attempts = attempts.select_related("record").only(
        "source_wallet_id", "destination_wallet_id", "source_event", "record__created_at"
    ).order_by("pk")
    latest = {}
    last = 0
    while chunk := list(attempts.filter(pk__gt=last)[:CHUNK]):
        rows = []
        for attempt in chunk:
            wallet = attempt.destination_wallet_id
            time, *totals = latest[wallet] = incoming(latest.get(wallet, (0, 0, 0)), attempt)
            event = INCOMING.pack(time, wallet_code(attempt.source_wallet_id), *totals)
            rows.append((time, event, attempt.pk))
        with connection.cursor() as cursor:
            cursor.executemany(
                "UPDATE scoring_attempt SET destination_time = %s, destination_event = %s "
                "WHERE id = %s",
                rows,
            )
        last = chunk[-1].pk


class Migration(migrations.Migration):

    dependencies = [
        ('scoring', '0002_labels'),
    ]

    operations = [
        migrations.AddField(
            model_name='attempt',
            name='destination_time',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name='attempt',
            name='destination_event',
            field=models.BinaryField(null=True),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.AlterField(
            model_name='attempt',
            name='destination_time',
            field=models.BigIntegerField(help_text="Place in the destination wallet's timeline, µs"),
        ),
        migrations.AlterField(
            model_name='attempt',
            name='destination_event',
            field=models.BinaryField(help_text='engine.features incoming event with its running totals'),
        ),
        migrations.AddIndex(
            model_name='attempt',
            index=models.Index(fields=['destination_wallet_id', 'destination_time', 'id'], name='attempt_destination'),
        ),
    ]
