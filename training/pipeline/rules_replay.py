"""The rules over a data set, as if Sentinelle had scored its rows one after the other.

A rule may read what Sentinelle itself decided before (R15 counts the wallet's blocks of the last
24 hours), and what it decided depends on the thresholds, which are being tuned. So every row is
first evaluated once as if nothing had been blocked before it; then, for given thresholds, only the
rows that follow a block of their wallet are evaluated again, in order. Blocks are replayed from the
first row given (the validation part): what happened before that is taken as not blocked.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.features.catalogue import DAY, FEATURE_INDEX
from engine.features.kernel import TAIL
from engine.policy import Policy
from engine.rules import RuleSet, rule_context
from training.pipeline.table import Transactions

COUNTRY_WINDOW = 30 * DAY
# Rows whose contexts are made at a time: Python objects for all of them would take gigabytes.
CHUNK = 20_000


class Replayed(NamedTuple):
    """What the rules and the policy made of each row; arrays of the rows given."""

    rule_blocked: NDArray[np.bool_]
    rule_score: NDArray[np.float64]
    """min(1, sum of boosts); 1 where a rule blocks."""
    risk: NDArray[np.float64]
    """The risk score in [0, 1]; 1 where a rule blocks."""


class RuleReplay:
    """The rules over the rows of `rows`, evaluated on construction.

    Args:
        transactions: the whole data set: the history of countries begins at its first row.
        history: (rows, len(CATALOGUE)) from `engine.features.replay`, of `rows` only.
        rows: which rows to evaluate; they end the data set.
        progress: called with the number of rows evaluated so far.
    """

    def __init__(
        self,
        rules: RuleSet,
        transactions: Transactions,
        history: NDArray[np.float64],
        rows: slice,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._rules = rules
        self._contexts = _Contexts(transactions, history, rows)
        self._source = transactions.source[rows]
        self._times = transactions.created_at[rows]
        self._blocked = np.zeros(len(self._source), dtype=np.bool_)
        self._score = np.zeros(len(self._source))
        for start in range(0, len(self._source), CHUNK):
            chunk = np.arange(start, min(start + CHUNK, len(self._source)))
            for row, context in zip(chunk.tolist(), self._contexts.of(chunk), strict=True):
                self._blocked[row], self._score[row] = self._evaluate(context, 0)
            progress(len(chunk) + start)

    def replay(
        self, policy: Policy, supervised: NDArray[np.float64], unsupervised: NDArray[np.float64]
    ) -> Replayed:
        """The rules and risks with these thresholds deciding what was blocked before each row.

        Args:
            supervised, unsupervised: (rows,) model scores in [0, 1], for every row.
        """
        score = self._score.copy()
        rule_blocked = self._blocked.copy()
        risk = np.where(rule_blocked, 1.0, policy.risk(score, supervised, unsupervised))
        for rows in self._after_first_block(rule_blocked | (risk >= policy.block)):
            blocks: deque[int] = deque()
            times = self._times[rows].tolist()
            contexts = self._contexts.of(rows)
            for row, time, context in zip(rows.tolist(), times, contexts, strict=True):
                while blocks and blocks[0] < time - DAY:
                    blocks.popleft()
                if blocks:
                    rule_blocked[row], score[row] = self._evaluate(context, len(blocks))
                    scores = (score[row], supervised[row], unsupervised[row])
                    risk[row] = 1.0 if rule_blocked[row] else policy.risk(*scores)
                if rule_blocked[row] or risk[row] >= policy.block:
                    blocks.append(time)
        return Replayed(rule_blocked, score, risk)

    def _evaluate(self, context: dict[str, Any], blocks_before: int) -> tuple[bool, float]:
        context["blocked_tx_last_24h"] = float(blocks_before)
        result = self._rules.evaluate(context)
        return bool(result.blocks), result.rule_score

    def _after_first_block(self, blocked: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
        """For each wallet with a blocked row, its rows from that one on, in order."""
        order = np.argsort(self._source, kind="stable")
        starts = np.flatnonzero(np.diff(self._source[order])) + 1
        wallets = np.split(order, starts)
        for rows in wallets:
            first = int(np.argmax(blocked[rows]))
            if blocked[rows[first]]:
                yield rows[first:]


class _Contexts:
    """The variables that rules read, row by row; null where the data set does not say."""

    def __init__(
        self, transactions: Transactions, history: NDArray[np.float64], rows: slice
    ) -> None:
        self._transactions = transactions
        self._history = history
        self._first = rows.start
        self._country_sets, self._countries_before = countries_before(transactions, rows)

    def of(self, rows: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        """The context of each row (positions in the rows evaluated), with no block before it."""
        columns = self._columns(rows)
        for values in zip(*columns.values(), strict=True):
            yield rule_context(**dict(zip(columns, values, strict=True)), blocked_tx_last_24h=0.0)

    def _columns(self, positions: NDArray[np.int64]) -> dict[str, list[Any]]:
        rows = positions + self._first
        data = self._transactions
        text = {name: column.values(rows) for name, column in data.text.items()}
        history = {
            name: self._history[positions, FEATURE_INDEX[name]].tolist()
            for name in ("avg_amount_30d", "tx_last_10min", "is_new_beneficiary")
        }
        countries = self._countries_before[positions].tolist()
        return {
            "amount": data.amount[rows].tolist(),
            "created_at": data.created_at[rows].tolist(),
            "same_wallet": (data.source[rows] == data.destination[rows]).tolist(),
            "currency": text["currency"],
            "direction": [value or "outgoing" for value in text["direction"]],
            "transaction_type": text["transaction_type"],
            "country": text["country"],
            "source_balance": data.numbers["source_balance"][rows].tolist(),
            "source_status": text["source_wallet_status"],
            "account_age_minutes": data.numbers["account_age_minutes"][rows].tolist(),
            "destination_status": text["destination_wallet_status"],
            "user_status": text["user_status"],
            "user_risk_level": text["user_risk_level"],
            **history,
            "user_country_history": [self._country_sets[at] for at in countries],
        }


def countries_before(
    transactions: Transactions, rows: slice
) -> tuple[list[list[str]], NDArray[np.int32]]:
    """The countries that each row's source wallet was in during the 30 days before it.

    As `engine.features.live.countries_30d`, among the wallet's last 1,000 attempts.

    Returns:
        The distinct sorted lists of countries, and for each of `rows` which of them is its own.
    """
    country = transactions.text["country"]
    lists: list[list[str]] = [[]]
    numbers: dict[tuple[int, ...], int] = {(): 0}
    result = np.zeros(len(transactions) - rows.start, dtype=np.int32)
    if not country.names:
        return lists, result
    seen: dict[int, dict[int, tuple[int, int]]] = {}
    attempts: dict[int, int] = {}
    values = _row_by_row(transactions.source, transactions.created_at, country.codes)
    for row, (wallet, time, code) in enumerate(values):
        count = attempts.get(wallet, 0)
        places = seen.setdefault(wallet, {})
        if row >= rows.start:
            recent = (
                place
                for place, (last, at) in places.items()
                if last >= time - COUNTRY_WINDOW and at >= count - TAIL
            )
            key = tuple(sorted(recent))
            if key not in numbers:
                numbers[key] = len(lists)
                lists.append(sorted(country.names[place] for place in key))
            result[row - rows.start] = numbers[key]
        attempts[wallet] = count + 1
        if code >= 0:
            places[code] = (time, count)
    return lists, result


def _row_by_row(*columns: NDArray[Any]) -> Iterator[tuple[Any, ...]]:
    """The rows as Python's own numbers, of which there is never more than a chunk."""
    for start in range(0, len(columns[0]), CHUNK):
        yield from zip(*(column[start : start + CHUNK].tolist() for column in columns), strict=True)
