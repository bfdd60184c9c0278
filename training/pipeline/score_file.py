"""The scores of a data set as one Parquet file, written in order with bounded memory."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.features.catalogue import CATALOGUE, OWN, OWN_BALANCE, RATIOS
from engine.fraud_bundle import Bundle
from engine.policy import BLOCK, OUTCOMES
from engine.rules import RuleSet
from engine.scorer import ANOMALY_HIGH, DECIMALS, SUPERVISED_HIGH
from engine.transaction import COUNTRY_HISTORY
from training.pipeline.bulk import ScoredRows, score_in_order
from training.pipeline.table import ATTRIBUTE_PREFIX, Text, Transactions
from training.pipeline.unfamiliar import Unfamiliar, unfamiliar

FACTS_KEY = b"sentinelle_scores"
_TIME = pa.timestamp("us", "UTC")
_NAMES = pa.list_(pa.string())
_CARRIERS = ((), (SUPERVISED_HIGH,), (ANOMALY_HIGH,), (SUPERVISED_HIGH, ANOMALY_HIGH))


class Summary(NamedTuple):
    """What a file of scores holds: counts by decision and by reason, what of the data the version
    makes nothing of, and the seconds it took."""

    rows: int
    decisions: dict[str, int]
    reasons: dict[str, int]
    """The most frequent first."""
    unfamiliar: Unfamiliar
    seconds: float


def write_scores(
    path: Path,
    bundle: Bundle,
    rules: RuleSet,
    data: Transactions,
    *,
    labels_after: int | None,
    features: bool,
    progress: Callable[[int], None],
) -> Summary:
    """Score a data set as `score_in_order` does, into the Parquet file `path`.

    Scores have 6 decimals, and those of the models are null where a rule blocks, as in an answer
    of `/score`. The file's metadata names the version and the rules,
    and what of the data the version makes nothing of.

    Args:
        labels_after: as for `score_in_order`.
        features: also write every feature, as `/score` records them.
        progress: called with the number of rows done.
    """
    started = time.monotonic()
    counted = _Counted()
    unknown = unfamiliar(bundle.schema, data)
    with _Writer(path, _facts(bundle, rules, unknown)) as writer:
        rows = slice(0, len(data))
        for part in score_in_order(bundle, rules, data, rows, labels_after=labels_after):
            columns = {**_identity(data, part), **_answers(bundle, part, counted)}
            if features:
                columns |= _features(bundle, data, part)
            writer.write(columns)
            progress(part.rows.stop)
    return Summary(
        len(data), counted.decisions, counted.reasons, unknown, time.monotonic() - started
    )


def _facts(bundle: Bundle, rules: RuleSet, unknown: Unfamiliar) -> dict[str, Any]:
    return {
        "model": bundle.manifest.model,
        "model_version": f"v{bundle.manifest.version}",
        "manifest_sha256": bundle.manifest_sha256,
        "rule_set_sha256": rules.sha256,
        **unknown._asdict(),
    }


class _Counted:
    """Counts decisions and reasons."""

    def __init__(self) -> None:
        self._decisions = Counter[str]()
        self._reasons = Counter[str]()

    def add(self, decided: NDArray[np.int8], reasons: list[tuple[str, ...]], rows: Any) -> None:
        """Count the decisions of some rows, and `reasons`, each given to so many of them."""
        for outcome, count in zip(OUTCOMES, np.bincount(decided, minlength=3), strict=True):
            self._decisions[outcome] += int(count)
        for names, count in zip(reasons, rows.tolist(), strict=True):
            for name in names:
                self._reasons[name] += count

    @property
    def decisions(self) -> dict[str, int]:
        """How often each was taken, 0 included."""
        return dict(self._decisions)

    @property
    def reasons(self) -> dict[str, int]:
        """How often each was given, the most frequent first."""
        return dict(self._reasons.most_common())


class _Writer:
    """A Parquet file that has the columns of what is written to it first."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self._path = path
        self._facts = facts
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, columns: dict[str, pa.Array]) -> None:
        """Write some rows."""
        table = pa.table(columns)
        if self._file is None:
            facts = {FACTS_KEY: json.dumps(self._facts)}
            schema = table.schema.with_metadata(facts)
            self._file = pq.ParquetWriter(self._path, schema, compression="zstd")
        self._file.write_table(table.cast(self._file.schema))


def _identity(data: Transactions, part: ScoredRows) -> dict[str, pa.Array]:
    count = part.rows.stop - part.rows.start
    return {
        "transaction_id": data.transaction_id.slice(part.rows.start, count).cast(pa.string()),
        "created_at": pa.array(data.created_at[part.rows]).cast(_TIME),
    }


def _answers(bundle: Bundle, part: ScoredRows, counted: _Counted) -> dict[str, pa.Array]:
    """What `/score` answers: the decision, the scores, the reasons; and the rules that fired."""
    scores, policy = part.scores, bundle.policy
    blocked = scores.rule_blocked
    decided = np.where(blocked, OUTCOMES.index(BLOCK), policy.severity(scores.risk))
    first, second = policy.carriers(scores.rule_score, scores.supervised, scores.unsupervised)
    carried = np.where(blocked, 0, first + 2 * second)
    distinct, codes, rows = np.unique(
        part.said * len(_CARRIERS) + carried, return_inverse=True, return_counts=True
    )
    said = [divmod(each, len(_CARRIERS)) for each in distinct.tolist()]
    reasons = [tuple(dict.fromkeys((*part.results[at].reasons, *_CARRIERS[by]))) for at, by in said]
    counted.add(decided, reasons, rows)
    return {
        "decision": pa.array(OUTCOMES).take(pa.array(decided)),
        "risk_score": _rounded(scores.risk),
        "rule_score": _rounded(scores.rule_score),
        "supervised_score": _rounded(scores.supervised, blocked),
        "unsupervised_score": _rounded(scores.unsupervised, blocked),
        "reasons": pa.array(reasons, _NAMES).take(pa.array(codes)),
        "rules_fired": pa.array([each.fired for each in part.results], _NAMES).take(
            pa.array(part.said)
        ),
    }


def _rounded(scores: NDArray[np.float64], null: NDArray[np.bool_] | None = None) -> pa.Array:
    return pa.array(np.round(scores, DECIMALS), mask=null)


def _features(bundle: Bundle, data: Transactions, part: ScoredRows) -> dict[str, pa.Array]:
    """Every feature, by the names and with the values of a score record; null for "unknown"."""
    positions = bundle.schema.positions
    own = [name for name in (*OWN, *OWN_BALANCE, *RATIOS) if name in positions]
    columns = {name: part.inputs[:, positions[name]] for name in own}
    columns |= {feature.name: part.history[:, at] for at, feature in enumerate(CATALOGUE)}
    features = {name: _known(column) for name, column in columns.items()}
    features |= dict(_attributes(bundle, data, part.rows))
    lists = pa.array(part.countries.lists, _NAMES)
    return features | {COUNTRY_HISTORY: lists.take(pa.array(part.countries.codes))}


def _attributes(bundle: Bundle, data: Transactions, rows: slice) -> Iterator[tuple[str, pa.Array]]:
    for attribute in bundle.schema.attributes:
        name = ATTRIBUTE_PREFIX + attribute.name
        if attribute.name not in data.attributes:
            kind = pa.string() if attribute.kind == "category" else pa.float64()
            yield name, pa.nulls(rows.stop - rows.start, kind)
            continue
        values = data.attributes[attribute.name].values
        if isinstance(values, Text):
            yield name, pa.array(values.take(rows).values(), pa.string())
        else:
            yield name, _known(values[rows])


def _known(values: NDArray[np.float64]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))
