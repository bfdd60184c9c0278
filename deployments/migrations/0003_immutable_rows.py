"""On PostgreSQL the database itself refuses to change what is written once.

SQLite has no such guard: its tables are rebuilt by later migrations, which would drop the triggers
silently. There the models refuse, as they do on PostgreSQL before the database is asked.
"""

from django.db import migrations

TABLES = ("modelversion", "ruleset", "promotionevent", "rulesetevent")
FUNCTION = """
CREATE FUNCTION sentinelle_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Rows of %% are never changed or deleted', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$
"""


def guard(apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute(FUNCTION)
    for table in TABLES:
        schema_editor.execute(
            f"CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON deployments_{table} "
            f"FOR EACH ROW EXECUTE FUNCTION sentinelle_refuse_change()"
        )


def unguard(apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    for table in TABLES:
        schema_editor.execute(f"DROP TRIGGER immutable ON deployments_{table}")
    schema_editor.execute("DROP FUNCTION sentinelle_refuse_change()")


class Migration(migrations.Migration):
    dependencies = [("deployments", "0002_fraud_and_rule_sets")]
    operations = [migrations.RunPython(guard, unguard)]
