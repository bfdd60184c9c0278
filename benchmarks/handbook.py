"""Average precision on the simulated cards of the Fraud Detection Handbook, by its own protocol.

The Handbook (Le Borgne, Siblini, Lebichot and Bontempi, "Reproducible Machine Learning for Credit
Card Fraud Detection", chapters 3 to 5) generates 1,754,155 payments of 5,000 cards at 10,000
terminals over 183 days from fixed seeds, so its data set can be made again exactly. A fraud is an
amount above 220, any payment at a terminal during the 28 days after it is compromised, or one
payment in three of a card during the 14 days after it is, at five times its amount.

Its protocol: 7 days of training from 2018-07-25, 7 days in which the last labels arrive, 7 days of
test, in which the cards already known to be compromised are left out.
"""

import random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CARDS = 5_000
TERMINALS = 10_000
DAYS = 183
RADIUS = 5.0
DAY_SECONDS = 86_400
START = np.datetime64("2018-04-01", "us")


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
    seconds, card, terminal, amount = (np.concatenate(column) for column in zip(*_by_card()))
    order = np.argsort(seconds, kind="stable")
    seconds, card, terminal, amount = (c[order] for c in (seconds, card, terminal, amount))
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


class Protocol(NamedTuple):
    """Which payments a model is fitted on and judged on."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def protocol(payments: Payments, first_day: str = "2018-07-25", train_days: int = 7) -> Protocol:
    """Rows of the training days that end at `first_day` plus 7, and of the test 7 days later.

    A test row of a card is left out when one of its frauds was known by then: made on a training
    day, or at least 7 days before the test row's day.
    """
    days = payments.seconds // DAY_SECONDS
    train_end = int((np.datetime64(first_day, "D") - START) / np.timedelta64(1, "D")) + 7
    train = np.flatnonzero((days >= train_end - train_days) & (days < train_end))
    fraud = payments.scenario > 0
    test = []
    for day in range(train_end + 7, train_end + 14):
        known = np.unique(payments.card[fraud & (days >= train_end - 7) & (days < day - 7)])
        rows = np.flatnonzero(days == day)
        test.append(rows[~np.isin(payments.card[rows], known)])
    return Protocol(train, np.concatenate(test))


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
