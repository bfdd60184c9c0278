"""Transactions as a file and as what `/score` is sent, and a bundle that reads all of them."""

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest
from threadpoolctl import threadpool_limits

from deployments import services
from deployments.models import RuleSet
from engine.features.schema import Attribute, FeatureSchema
from engine.fraud_bundle import SUPERVISED, UNSUPERVISED
from engine.policy import PiecewiseLinear, Policy
from engine.store import Store, open_store
from engine.trees import serialize
from tests import bundles
from tests.engine.bundles import write_small_bundle

START = datetime(2025, 1, 1, tzinfo=UTC)
SCHEMA = FeatureSchema(
    transaction_types=("PAYMENT", "TRANSFER"),
    countries=("BE", "FR"),
    attributes=(
        Attribute("channel", "category", ("app", "web")),
        Attribute("device_age_days", "number"),
        Attribute("is_vpn", "boolean"),
    ),
)
POLICY = Policy(
    review=0.55, block=0.75, calibration=PiecewiseLinear((0.0, 0.4, 1.0), (0.0, 0.5, 1.0))
)
COLUMNS = (
    "transaction_id", "created_at", "amount", "currency", "source_wallet_id",
    "destination_wallet_id", "transaction_type", "direction", "country", "city",
    "initiator_user_id", "status", "source_balance", "source_wallet_status",
    "destination_wallet_status", "user_status", "user_risk_level", "account_age_minutes",
)  # fmt: skip
ATTRIBUTES = ("channel", "device_age_days", "is_vpn")
LABELS = ("is_fraud", "label_known_at")
MAPPING = "\n".join(
    [
        "[columns]",
        *(f'{name} = {{ column = "{name}" }}' for name in (*COLUMNS, *LABELS)),
        "[attributes]",
        'channel = { column = "channel", kind = "category" }',
        'device_age_days = { column = "device_age_days", kind = "number" }',
        'is_vpn = { column = "is_vpn", kind = "boolean" }',
    ]
)


def traffic(rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Transactions in order of time, within forty days: a hot source and a hot destination, bursts
    within one moment, values that are not known, statuses, countries and amounts that rules block,
    failures, late labels."""
    rng = np.random.default_rng(seed)
    minutes = np.sort(rng.integers(0, 40 * 24 * 60, rows))
    bursts = rng.random(rows) < 0.3
    for row in range(1, rows):
        if bursts[row]:
            minutes[row] = minutes[row - 1]

    def pick(*values: Any, p: list[float] | None = None) -> Any:
        return rng.choice(np.array(values, dtype=object), p=p)

    made = []
    for row in range(rows):
        created_at = START + timedelta(minutes=int(minutes[row]))
        source = "hot" if rng.random() < 0.25 else f"w{rng.integers(0, 12)}"
        destination = "shop" if rng.random() < 0.3 else f"w{rng.integers(0, 30)}"
        balance = pick(None, *np.round(rng.uniform(5, 4_000, 5), 2).tolist())
        known = created_at + timedelta(hours=int(rng.integers(0, 24 * 12)))
        made.append(
            {
                "transaction_id": f"tx-{row}",
                "created_at": created_at.isoformat(),
                "amount": round(float(rng.lognormal(3.2, 1.1)), 2),
                "currency": pick("PYC", "EUR", p=[0.8, 0.2]),
                "source_wallet_id": source,
                "destination_wallet_id": destination,
                "transaction_type": pick("TRANSFER", "PAYMENT", "CASH_OUT"),
                "direction": pick(None, "outgoing", "incoming"),
                "country": pick("FR", "BE", "SN", "KP", None, p=[0.6, 0.2, 0.1, 0.005, 0.095]),
                "city": pick(None, "Dakar"),
                "initiator_user_id": pick(None, "u1", "u2"),
                "status": pick(None, "SUCCESS", "FAILED", "CANCELED", p=[0.2, 0.7, 0.07, 0.03]),
                "source_balance": balance,
                "source_wallet_status": pick(None, "active", "locked", p=[0.2, 0.79, 0.01]),
                "destination_wallet_status": pick(None, "active", "closed", p=[0.2, 0.79, 0.01]),
                "user_status": pick(None, "active"),
                "user_risk_level": pick(None, "low", "high", p=[0.3, 0.6, 0.1]),
                "account_age_minutes": pick(None, 3.0, 40.0, 90_000.5),
                "channel": pick(None, "app", "web", "branch"),
                "device_age_days": pick(None, 0.5, 12, 400),
                "is_vpn": pick(None, True, False),
                "is_fraud": bool(rng.random() < 0.08),
                "label_known_at": known.isoformat(),
            }
        )
    return made


def write_csv(path: Path, rows: list[dict[str, Any]], *, labels: bool = True) -> Path:
    """The transactions as a CSV file, an empty field for what is not known."""
    names = (*COLUMNS, *ATTRIBUTES, *(LABELS if labels else ()))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def body(row: dict[str, Any]) -> bytes:
    """What `/score` is sent of a transaction, nulls for what is not known."""
    own = (
        "transaction_id", "created_at", "amount", "currency", "source_wallet_id",
        "destination_wallet_id", "transaction_type", "direction", "country", "city",
        "initiator_user_id",
    )  # fmt: skip
    request = {
        "transaction": {
            **{name: row[name] for name in own},
            "attributes": {name: row[name] for name in ATTRIBUTES},
        },
        "context": {
            "source_wallet": {
                "balance": row["source_balance"],
                "status": row["source_wallet_status"],
                "account_age_minutes": row["account_age_minutes"],
            },
            "destination_wallet": {"status": row["destination_wallet_status"]},
            "user": {"status": row["user_status"], "risk_level": row["user_risk_level"]},
        },
    }
    return json.dumps(request).encode()


def write_bundle(store: Store, prefix: str = "fraud/v1.0.0", **changes: Any) -> str:
    """Write a bundle of `SCHEMA` whose scores vary over such traffic; its manifest's digest."""
    rng = np.random.default_rng(1)
    width = len(SCHEMA.names)
    rows = rng.lognormal(2.0, 1.5, (1_500, width)) * (rng.random((1_500, width)) < 0.7)
    labels = rows[:, 0] + rows[:, -2] > 30.0
    rows[rng.random(rows.shape) < 0.05] = np.nan
    boosting = HistGradientBoostingClassifier(max_iter=25, early_stopping=False, random_state=0)
    with threadpool_limits(1):
        boosting.fit(rows, labels)
    forest = IsolationForest(n_estimators=15, random_state=0).fit(np.nan_to_num(rows))
    facts = {
        "files": {SUPERVISED: serialize(boosting), UNSUPERVISED: serialize(forest)},
        "schema": SCHEMA,
        "policy": POLICY,
        "fill": np.full(width, 0.5),
    }
    return write_small_bundle(store, prefix, **(facts | changes))


def register_champion(version: str = "1.0.0", **changes: Any) -> None:
    """Write such a bundle into the artefact store, register it and let it serve."""
    model, rule_set = bundles.seed_registry(), RuleSet.objects.get(name="default")
    location = f"fraud/v{version}"
    changes = {"version": version, "rule_set_sha256": rule_set.sha256} | changes
    store = open_store(settings.ARTIFACTS_DIR)
    digest = write_bundle(store, location, **changes)
    services.version_register(
        model=model,
        version=version,
        location=location,
        manifest_sha256=digest,
        metrics=bundles.METRICS,
        deployable=True,
        training_run_id=None,
        rule_set=rule_set,
        created_by="test",
    )
    bundles.promote(version)
