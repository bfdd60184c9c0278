"""Average precision on the simulated cards of the Fraud Detection Handbook, by its own protocol.

The Handbook (Le Borgne, Siblini, Lebichot and Bontempi, "Reproducible Machine Learning for Credit
Card Fraud Detection", chapters 3 to 5) generates 1,754,155 payments of 5,000 cards at 10,000
terminals over 183 days from fixed seeds, so its data set can be made again exactly. A fraud is an
amount above 220, any payment at a terminal during the 28 days after it is compromised, or one
payment in three of a card during the 14 days after it is, at five times its amount.

Its protocol: 7 days of training, 7 days in which the last labels arrive, 7 days of test, in which
the cards already known to be compromised are left out; four times, a week apart, from 2018-07-25.
Of the training days the last two only say when to stop. History begins with the first payment.

    python -m benchmarks.handbook [--days N …] [--weeks N]

Prints a table beside the best published figures, then the same as one line of JSON. The published
figures are means over the four weeks; `--weeks 4 --days 7 28` takes about five minutes.
"""

import argparse
import json
import random
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from training.pipeline.features import Features
from training.pipeline.fit import FitPart, fit_supervised, supervised_score
from training.pipeline.prepare import choose_schema
from training.pipeline.table import OPTIONAL_NUMBERS, OPTIONAL_TEXT, Text, Transactions

CARDS = 5_000
TERMINALS = 10_000
DAYS = 183
RADIUS = 5.0
DAY_SECONDS = 86_400
START = int(datetime(2018, 4, 1, tzinfo=UTC).timestamp())
FIRST_TRAINING_DAY = 115
"""2018-07-25, counted from the first day."""
DELAY_DAYS = 7
WEEKS = 4
VALIDATION_DAYS = 2
PUBLISHED = {"average precision": 0.687, "ROC-AUC": 0.88, "card precision@100": 0.305}
"""The best of the Handbook's tuned models, each figure its own (chapters 5 to 7)."""


class Payments(NamedTuple):
    """The Handbook's table, one entry a payment in order of time."""

    seconds: NDArray[np.int64]
    card: NDArray[np.int64]
    terminal: NDArray[np.int64]
    amount: NDArray[np.float64]
    scenario: NDArray[np.int64]
    """0 for a legitimate payment, else which of the three kinds of fraud."""


def generate() -> Payments:
    """The Handbook's data set, from the seeds that it was published with."""
    columns = [np.concatenate(column) for column in zip(*_by_card(), strict=True)]
    order = np.argsort(columns[0], kind="stable")
    seconds, card, terminal, amount = (column[order] for column in columns)
    scenario = np.zeros(len(card), dtype=np.int64)
    scenario[amount > 220] = 1
    days = seconds // DAY_SECONDS
    for day in range(days.max()):
        compromised = np.random.RandomState(day).choice(TERMINALS, size=2, replace=False)
        scenario[_during(days, day, 28) & np.isin(terminal, compromised)] = 2
    for day in range(days.max()):
        compromised = np.random.RandomState(day).choice(CARDS, size=3, replace=False)
        rows = np.flatnonzero(_during(days, day, 14) & np.isin(card, compromised)).tolist()
        taken = random.Random(day).sample(rows, k=len(rows) // 3)
        amount[taken] *= 5
        scenario[taken] = 3
    return Payments(seconds, card, terminal, amount, scenario)


def _during(days: NDArray[np.int64], first: int, count: int) -> NDArray[np.bool_]:
    return (days >= first) & (days < first + count)


def _by_card() -> list[tuple[NDArray[np.int64], ...]]:
    """Each card's payments: second, card, terminal, amount."""
    profiles = np.random.RandomState(0).uniform(size=(CARDS, 4)) * [100, 100, 95, 4] + [0, 0, 5, 0]
    places = np.random.RandomState(1).uniform(size=(TERMINALS, 2)) * 100
    found = []
    for card, (x, y, mean_amount, per_day) in enumerate(profiles):
        near = np.flatnonzero(np.hypot(places[:, 0] - x, places[:, 1] - y) < RADIUS).tolist()
        draw, choose = np.random.RandomState(card), random.Random(card)
        rows = []
        for day in range(DAYS):
            for _ in range(draw.poisson(per_day)):
                second = int(draw.normal(DAY_SECONDS / 2, 20_000))
                if not 0 < second < DAY_SECONDS:
                    continue
                amount = draw.normal(mean_amount, mean_amount / 2)
                if amount < 0:
                    amount = draw.uniform(0, mean_amount * 2)
                if near:
                    rows.append((second + day * DAY_SECONDS, choose.choice(near), amount))
        if rows:
            second, terminal, amount = map(np.array, zip(*rows, strict=True))
            found.append((second, np.full(len(rows), card), terminal, np.round(amount, 2)))
    return found


class Rows(NamedTuple):
    """Which payments a model is fitted on, stopped by and judged on."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def rows_of(payments: Payments, week: int, training_days: int) -> Rows:
    """The rows of one of the four weeks; more training days than 7 begin earlier.

    A test row is left out when a fraud of its card was known by then: one of the last 7 training
    days, or one that is at least 7 days old.
    """
    days = payments.seconds // DAY_SECONDS
    end = FIRST_TRAINING_DAY + 7 * (week + 1)
    fraud = payments.scenario > 0
    test = []
    for day in range(end + DELAY_DAYS, end + DELAY_DAYS + 7):
        known = fraud & (days >= end - 7) & (days < day - DELAY_DAYS)
        rows = np.flatnonzero(days == day)
        test.append(rows[~np.isin(payments.card[rows], payments.card[known])])
    return Rows(
        np.flatnonzero((days >= end - training_days) & (days < end - VALIDATION_DAYS)),
        np.flatnonzero((days >= end - VALIDATION_DAYS) & (days < end)),
        np.concatenate(test),
    )


def card_precision(
    scores: NDArray[np.float64], payments: Payments, test: NDArray[np.int64], top: int = 100
) -> float:
    """Of the 100 cards a day with the highest score, the share compromised that day; the mean.

    A card that was found on an earlier day is not looked at again.
    """
    days = payments.seconds[test] // DAY_SECONDS
    fraud, cards = payments.scenario[test] > 0, payments.card[test]
    found: set[int] = set()
    daily = []
    for day in np.unique(days):
        rows = np.flatnonzero((days == day) & ~np.isin(cards, list(found)))
        highest, compromised = np.full(CARDS, -1.0), np.zeros(CARDS, np.bool_)
        np.maximum.at(highest, cards[rows], scores[rows])
        np.logical_or.at(compromised, cards[rows], fraud[rows])
        alerted = np.argsort(-highest, kind="stable")[:top]
        caught = alerted[compromised[alerted]]
        daily.append(len(caught) / top)
        found.update(caught.tolist())
    return float(np.mean(daily))


def as_transactions(payments: Payments) -> Transactions:
    """The payments as training reads a data set: cards pay terminals."""
    count = len(payments.card)
    nothing = Text(np.full(count, -1, np.int32), ())
    names = ("currency", "transaction_type", *OPTIONAL_TEXT)
    one = Text(np.zeros(count, np.int32), ("XXX",))
    text = dict.fromkeys(names, nothing) | dict.fromkeys(names[:2], one)
    return Transactions(
        transaction_id=pa.chunked_array([np.arange(count).astype(str)]),
        created_at=(START + payments.seconds) * 1_000_000,
        amount=np.round(payments.amount * 10_000).astype(np.int64),
        source=payments.card,
        destination=CARDS + payments.terminal,
        wallets=pa.array(np.arange(CARDS + TERMINALS).astype(str)),
        is_fraud=payments.scenario > 0,
        text=text,
        numbers={name: np.full(count, np.nan) for name in OPTIONAL_NUMBERS},
    )


def judge(payments: Payments, data: Transactions, week: int, training_days: int) -> list[float]:
    """Average precision, ROC-AUC and card precision@100 of one week."""
    rows = rows_of(payments, week, training_days)
    train = slice(int(rows.train[0]), int(rows.train[-1]) + 1)
    delay = DELAY_DAYS * DAY_SECONDS * 1_000_000
    schema = choose_schema(data, train, without=())
    features = Features(data, schema, delay, labels_after=delay)

    def part(chosen: NDArray[np.int64]) -> FitPart:
        return FitPart(features.matrix(chosen), data.is_fraud[chosen], np.ones(len(chosen)))

    fitted = fit_supervised(
        part(rows.train), part(rows.validation), seed=0, hyperparameters={}, progress=lambda _: None
    )
    test = part(rows.test)
    scores = supervised_score(fitted.model, test.matrix)
    return [
        float(average_precision_score(test.labels, scores)),
        float(roc_auc_score(test.labels, scores)),
        card_precision(scores, payments, rows.test),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, nargs="+", default=[7], help="days of training")
    parser.add_argument("--weeks", type=int, default=1, choices=range(1, WEEKS + 1))
    options = parser.parse_args()
    payments = generate()
    data = as_transactions(payments)
    print(f"{len(data):,} payments, {int(data.is_fraud.sum()):,} frauds; {options.weeks} weeks")
    print(f"{'':24}" + "".join(f"{name:>20}" for name in PUBLISHED))
    print(f"{'best published':24}" + "".join(f"{value:>20.3f}" for value in PUBLISHED.values()))
    figures = {}
    for days in options.days:
        judged = [judge(payments, data, week, days) for week in range(options.weeks)]
        means = np.mean(judged, axis=0).round(4).tolist()
        print(f"{f'{days} days of training':24}" + "".join(f"{value:>20.3f}" for value in means))
        figures[days] = dict(zip(PUBLISHED, means, strict=True)) | {
            "weeks": np.round(judged, 4).tolist()
        }
    print(json.dumps({"published": PUBLISHED, "measured": figures}))


if __name__ == "__main__":
    main()
