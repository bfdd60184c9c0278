"""What every installation starts with: the model “fraud”, the default rules, and none."""

from hashlib import sha256

from django.db import migrations

from engine.rules import default_rules_text


def seed(apps, schema_editor):
    registry = lambda name: apps.get_model("deployments", name).objects  # noqa: E731
    fraud = registry("RegisteredModel").create(
        name="fraud", kind="fraud", description="Scores the risk of a transaction."
    )
    rule_sets = {}
    for name, source in (("none", ""), ("default", default_rules_text())):
        rule_sets[name] = registry("RuleSet").create(
            name=name,
            source=source,
            sha256=sha256(source.encode()).hexdigest(),
            created_by="migration",
        )
    registry("RuleSetAlias").create(model=fraud, rule_set=rule_sets["default"])
    registry("RuleSetEvent").create(
        action="promote",
        actor="migration",
        reason="The rules that come with Sentinelle.",
        model=fraud,
        to_rule_set=rule_sets["default"],
    )


class Migration(migrations.Migration):
    dependencies = [("deployments", "0001_initial")]
    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
