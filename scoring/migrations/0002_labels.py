"""Statements about transactions, and the timelines of confirmed frauds that come from them."""

import django.db.models.deletion
from django.db import migrations, models


def guard(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(
            "CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON scoring_label "
            "FOR EACH ROW EXECUTE FUNCTION sentinelle_refuse_change()"
        )


def unguard(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP TRIGGER immutable ON scoring_label")


class Migration(migrations.Migration):

    dependencies = [
        ('deployments', '0003_immutable_rows'),
        ('scoring', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Label',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('transaction_id', models.CharField(max_length=64)),
                ('verdict', models.CharField(choices=[('fraud', 'Fraud'), ('legitimate', 'Legitimate')], max_length=10)),
                ('known_at', models.DateTimeField(help_text='When it became known')),
                ('received_at', models.DateTimeField(help_text='When Sentinelle was told')),
                ('source', models.CharField(blank=True, help_text='chargeback, analyst, …', max_length=32)),
                ('note', models.CharField(blank=True, max_length=1000)),
                ('stated_by', models.CharField(help_text='The name of the key, or the user', max_length=254)),
            ],
            options={
                'ordering': ['-id'],
                'default_permissions': ('add', 'view'),
                'indexes': [models.Index(fields=['transaction_id', 'id'], name='label_transaction')],
            },
        ),
        migrations.CreateModel(
            name='ConfirmedFraud',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('side', models.CharField(choices=[('source', 'Source'), ('destination', 'Destination')], max_length=11)),
                ('wallet_id', models.CharField(max_length=64)),
                ('time', models.BigIntegerField(help_text="Place in that side's timeline of the wallet, µs")),
                ('total', models.BigIntegerField(help_text="The wallet's frauds on that side, up to this one")),
                ('attempt', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='scoring.attempt')),
            ],
            options={
                'default_permissions': (),
                'indexes': [models.Index(fields=['side', 'wallet_id', 'time', 'attempt'], name='fraud_timeline')],
                'constraints': [models.UniqueConstraint(fields=('attempt', 'side'), name='fraud_attempt_side')],
            },
        ),
        migrations.RunPython(guard, unguard),
    ]
