"""How fast a snapshot of recorded traffic is made, and in how much memory.

    python -m benchmarks.snapshots [--rows N …]

Fills a PostgreSQL of its own with N decisions of 60 days, one in a hundred of them labelled, and
makes a snapshot with `manage.py snapshot_dataset`, a process of its own. Prints a table, then the
same figures as one line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.server.site import ROOT, promote_a_model, site

ROWS = (200_000,)
DAYS = 60
# What one recorded decision is made into. Amounts, counts and wallets vary, so that nothing is
# smaller on the disk than real traffic would be.
FILL = """
INSERT INTO scoring_attempt (transaction_id, source_wallet_id, destination_wallet_id, source_time,
    source_event, destination_time, destination_event)
SELECT 'tx-' || n, 'w' || n %% (%(rows)s / 50 + 1), 'shop' || n * 7 %% (%(rows)s / 100 + 1),
    0, source_event, 0, destination_event
FROM scoring_attempt, generate_series(1, %(rows)s) AS n WHERE transaction_id = 'template';
INSERT INTO scoring_scorerecord (attempt_id, digest, transaction, context, created_at, scored_at,
    decision, risk_score, rule_score, supervised_score, unsupervised_score, reasons, rules_fired,
    features, features_sent, model_version_id, rule_set_id)
SELECT a.id, r.digest, r.transaction || jsonb_build_object('amount', round(random()::numeric * 99)),
    r.context, made, made, CASE WHEN n %% 200 = 0 THEN 'BLOCK' ELSE 'APPROVE' END, random(),
    r.rule_score, random(), random(), r.reasons, r.rules_fired,
    (SELECT jsonb_object_agg(key, CASE WHEN key LIKE '%%sum%%' OR key LIKE '%%mean%%'
        THEN to_jsonb(random() * 1000 + n) ELSE value END) FROM jsonb_each(r.features)),
    r.features_sent, r.model_version_id, r.rule_set_id
FROM scoring_scorerecord r JOIN scoring_attempt t ON t.id = r.attempt_id,
    generate_series(1, %(rows)s) AS n JOIN scoring_attempt a ON a.transaction_id = 'tx-' || n,
    LATERAL (SELECT now() - interval '60 days' + n * (interval '60 days' / %(rows)s) AS made) AS at
WHERE t.transaction_id = 'template';
INSERT INTO scoring_label (transaction_id, verdict, known_at, received_at, source, note, stated_by)
SELECT 'tx-' || n, 'fraud', now() - interval '1 day', now() - interval '1 day', '', '', 'benchmark'
FROM generate_series(1, %(rows)s, 100) AS n;
"""
PEAK = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "manage.py", "snapshot_dataset", *sys.argv[1:]])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(done.returncode)
"""


def fill(rows: int) -> None:
    """Record so many decisions, made of one that is made here."""
    from django.db import connection
    from django.utils import timezone

    from scoring.services import score
    from tests.scoring.requests import request

    now = timezone.now()
    body = json.dumps(request(transaction_id="template", created_at="2020-01-01T00:00:00Z"))
    score(body.encode(), now)
    with connection.cursor() as cursor:
        cursor.execute(FILL, {"rows": rows})
        cursor.execute("ANALYZE")


def measured(rows: int) -> dict[str, Any]:
    """The figures for one size."""
    with site():
        promote_a_model()
        fill(rows)
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", PEAK, "bench", "--days", str(DAYS)],
            cwd=ROOT,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(done.stderr)
        from training.models import Dataset

        dataset = Dataset.objects.get()
        size = Path(dataset.file).stat().st_size
    return {
        "rows": dataset.rows,
        "seconds": round(seconds, 1),
        "rows_per_second": round(dataset.rows / seconds),
        "peak_mb": int(done.stdout.split()[-1]),
        "file_mb": round(size / 2**20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    found = [measured(rows) for rows in parser.parse_args().rows]
    for each in found:
        print(
            f"{each['rows']:>12,} rows {each['seconds']:>8,.1f} s "
            f"{each['rows_per_second']:>8,} rows/s {each['peak_mb']:>6,} MB at most, "
            f"{each['file_mb']:,} MB on the disk"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
