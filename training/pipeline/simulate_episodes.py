"""Bursts of payments that belong together: the frauds, and the honest ones that look like them.

A maker takes a number of episodes and returns their payments; `honest_episodes` and
`fraud_episodes` run makers in fixed proportions until there are exactly enough rows.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.pipeline.simulate_people import (
    CASH_OUT,
    COUNTRIES,
    DAY,
    FAILED,
    HOUR,
    MINUTE,
    PAYMENT,
    SUCCESS,
    TRANSFER,
    UTC_OFFSET_HOURS,
    Codes,
    Floats,
    Ints,
    Payments,
    Random,
    Times,
    World,
    moments,
    popular,
    whereabouts,
)

FRAUD_KINDS = ("account_takeover", "new_payee_drain", "mule_chain", "card_testing")
TAKEOVER, DRAIN, MULE_CHAIN, CARD_TESTING = range(1, len(FRAUD_KINDS) + 1)

Reals = NDArray[np.float64]
Maker = Callable[[Random, World, int], Payments]


class Steps(NamedTuple):
    """The rows of many episodes: which episode each belongs to and its number within it."""

    episode: Times
    number: Times
    last: NDArray[np.bool_]


def honest_episodes(random: Random, world: World, count: int) -> Payments:
    """Exactly `count` legitimate payments that have something of a fraud about them.

    Most share one or two traits with a fraud (a burst, the night, a refusal, a large part of the
    balance, a new country), so that no trait alone gives a fraud away; the last three share all.
    """
    makers = (
        (0.13, sprees),
        (0.10, nights_out),
        (0.15, retries),
        (0.16, settling_up),
        (0.14, large_regular_transfers),
        (0.13, moving_in),
        (0.07, arrivals),
        (0.06, trials),
        (0.022, big_transfers),
        (0.015, subscriptions),
        (0.023, passing_on),
    )
    return _exactly(random, world, count, makers)


def fraud_episodes(random: Random, world: World, count: int) -> Payments:
    """Exactly `count` fraudulent payments of the four kinds."""
    makers = ((0.51, takeovers), (0.15, drains), (0.34, card_tests))
    return _exactly(random, world, count, makers)


def _exactly(
    random: Random, world: World, count: int, makers: Sequence[tuple[float, Maker]]
) -> Payments:
    """`share * count` payments of every maker; the last maker also fills what rounding left."""
    parts: list[Payments] = []
    wanted = np.diff(np.round(np.cumsum([0.0, *(share for share, _ in makers)]) * count))
    for (_, maker), part in zip(makers, wanted.astype(int), strict=True):
        missing = int(part)
        while missing > 0:
            made = maker(random, world, missing // 2 + 1)
            parts.append(made.pick(slice(missing)))
            missing -= parts[-1].rows
    if not parts:
        return _nothing()
    return concatenate(parts)


def concatenate(parts: Sequence[Payments]) -> Payments:
    """All payments of `parts`, in order."""
    return Payments._make(np.concatenate(columns) for columns in zip(*parts, strict=True))


def _nothing() -> Payments:
    types = (np.int64, np.int32, np.int32, np.int32, np.float32, np.int8, np.int8, np.int8, np.int8)
    return Payments._make(np.empty(0, dtype=type_) for type_ in types)


def _steps(sizes: Times) -> Steps:
    ends = np.cumsum(sizes)
    episode = np.repeat(np.arange(len(sizes)), sizes)
    number = np.arange(int(ends[-1])) - np.repeat(ends - sizes, sizes)
    last = np.zeros(len(episode), dtype=np.bool_)
    last[ends - 1] = True
    return Steps(episode, number, last)


def _times(random: Random, start: Times, steps: Steps, gap: Reals, sigma: float) -> Times:
    """Start of the episode plus lognormal gaps with a median of `gap` ms for each episode."""
    noise = np.exp(random.normal(0, sigma, len(steps.episode)))
    waits = np.where(steps.number > 0, gap[steps.episode] * noise, 0).astype(np.int64)
    elapsed = np.cumsum(waits)
    heads = np.flatnonzero(steps.number == 0)
    return start[steps.episode] + elapsed - elapsed[heads][steps.episode]


def _people(random: Random, world: World, count: int) -> Ints:
    """People drawn by how much they pay, so that most have a history."""
    edges = np.cumsum(world.activity.astype(np.float64))
    chosen = np.searchsorted(edges, random.random(count) * edges[-1])
    return np.minimum(chosen, world.people - 1).astype(np.int32)


def _starts(random: Random, world: World, person: Ints) -> Times:
    day = (random.random(len(person)) * world.days).astype(np.int64)
    return moments(random, world, person, day)


def _night_starts(random: Random, world: World, person: Ints, night: float) -> Times:
    """Starts of which a share `night` falls between midnight and six in the morning."""
    start = _starts(random, world, person)
    offset = UTC_OFFSET_HOURS[world.home[person]] * HOUR
    midnight = (start + offset) // DAY * DAY - offset
    small_hours = midnight + (random.random(len(person)) * 6 * HOUR).astype(np.int64)
    return np.where(random.random(len(person)) < night, small_hours, start)


def _habitual(random: Random, world: World, person: Ints, factor: Reals) -> Ints:
    """Amounts in cents: the person's usual one times `factor`, with some spread."""
    noise = random.normal(0, 0.35, len(person))
    amount = np.exp(world.typical[person] + noise) * factor
    return np.clip(amount, 10, 29_500).astype(np.int32)


def _not_self(world: World, person: Ints, destination: Ints | Times) -> Ints:
    other = np.where(destination == person, (destination + 1) % world.people, destination)
    return np.asarray(other, dtype=np.int32)


def _payments(
    time: Times,
    source: Ints,
    destination: Ints | Times,
    amount: Ints | Times | Reals,
    type_: Codes | int,
    country: Codes,
    *,
    share: Floats | float = -1.0,
    status: Codes | int = 0,
    kind: Codes | int = 0,
) -> Payments:
    shape = len(time)
    return Payments(
        time,
        source.astype(np.int32),
        destination.astype(np.int32),
        amount.astype(np.int32),
        np.broadcast_to(np.asarray(share, dtype=np.float32), shape),
        np.broadcast_to(np.asarray(type_, dtype=np.int8), shape),
        country.astype(np.int8),
        np.broadcast_to(np.asarray(status, dtype=np.int8), shape),
        np.broadcast_to(np.asarray(kind, dtype=np.int8), shape),
    )


# --- honest ------------------------------------------------------------------------------------


def big_transfers(random: Random, world: World, episodes: int) -> Payments:
    """A deposit, a used car, a present: much of the balance, to someone, often for the first time.

    Amounts, hours and payees are those of `drains`, apart from the payee's being a mule.
    """
    payer = _people(random, world, episodes)
    steps = _steps(random.choice([1, 1, 1, 2], episodes))
    source = payer[steps.episode]
    time = _times(
        random, _starts(random, world, payer), steps, np.full(episodes, 9.0 * MINUTE), 1.0
    )
    contact = world.contacts[payer, random.integers(0, world.contacts.shape[1], episodes)]
    anyone = random.integers(0, world.people, episodes)
    payee = np.where(random.random(episodes) < 0.35, contact, anyone)
    share = random.uniform(0.3, 0.95, len(time)).astype(np.float32)
    cap = random.choice([5_000, 9_000, 15_000, 19_500, 19_500, 29_000], len(time))
    return _payments(
        time,
        source,
        _not_self(world, source, payee[steps.episode]),
        cap,
        TRANSFER,
        whereabouts(world, source, time),
        share=share,
    )


def large_regular_transfers(random: Random, world: World, episodes: int) -> Payments:
    """Rent, support for relatives: much of the balance, but always to the same people."""
    payer = _people(random, world, episodes)
    steps = _steps(random.integers(1, 7, episodes))
    source = payer[steps.episode]
    time = _times(
        random, _starts(random, world, payer), steps, np.full(episodes, 6.0 * MINUTE), 1.0
    )
    payee = world.contacts[source, random.integers(0, 2, len(time))]
    return _payments(
        time,
        source,
        _not_self(world, source, payee),
        random.choice([7_900, 12_000, 15_000, 19_500], len(time)),
        TRANSFER,
        whereabouts(world, source, time),
        share=random.uniform(0.2, 0.8, len(time)).astype(np.float32),
    )


def settling_up(random: Random, world: World, episodes: int) -> Payments:
    """Small debts paid back to several people after a week together, at any hour."""
    payer = _people(random, world, episodes)
    steps = _steps(random.integers(3, 13, episodes))
    source = payer[steps.episode]
    start = _night_starts(random, world, payer, 0.15)
    time = _times(random, start, steps, np.full(episodes, 5.0 * MINUTE), 1.2)
    factor = np.exp(random.normal(-0.4, 0.6, episodes))[steps.episode]
    return _payments(
        time,
        source,
        _not_self(world, source, random.integers(0, world.people, len(time))),
        np.minimum(_habitual(random, world, source, factor), 7_000),
        TRANSFER,
        whereabouts(world, source, time),
    )


def sprees(random: Random, world: World, episodes: int) -> Payments:
    """A Saturday in town: several shops within the hour or two, well above habit."""
    return _shopping(random, world, _people(random, world, episodes), night=0.0)


def moving_in(random: Random, world: World, episodes: int) -> Payments:
    """A flat furnished in an afternoon: most of the balance, in shops never visited before."""
    payer = _people(random, world, episodes)
    steps = _steps(random.integers(2, 8, episodes))
    source = payer[steps.episode]
    start = _night_starts(random, world, payer, 0.1)
    time = _times(random, start, steps, np.full(episodes, 9.0 * MINUTE), 1.0)
    return _payments(
        time,
        source,
        popular(random, world.shops, len(time)),
        random.choice([7_900, 12_000, 15_000, 19_500], len(time)),
        PAYMENT,
        whereabouts(world, source, time),
        share=random.uniform(0.1, 0.6, len(time)).astype(np.float32),
        status=np.where(random.random(len(time)) < 0.05, FAILED, 0),
    )


def nights_out(random: Random, world: World, episodes: int) -> Payments:
    """The same at night: bars, taxis."""
    return _shopping(random, world, _people(random, world, episodes), night=0.9)


def arrivals(random: Random, world: World, episodes: int) -> Payments:
    """The first day abroad."""
    travellers = np.flatnonzero(world.trip_start < world.length - DAY).astype(np.int32)
    if not len(travellers):
        return sprees(random, world, episodes)
    payer = random.choice(travellers, episodes)
    start = world.trip_start[payer] + (random.random(episodes) * 8 * HOUR).astype(np.int64)
    return _shopping(random, world, payer, night=0.0, start=start)


def _shopping(
    random: Random, world: World, payer: Ints, *, night: float, start: Times | None = None
) -> Payments:
    episodes = len(payer)
    start = _night_starts(random, world, payer, night) if start is None else start
    steps = _steps(random.integers(3, 13, episodes))
    source = payer[steps.episode]
    gap = np.exp(random.normal(np.log(8 * MINUTE), 0.8, episodes))
    time = _times(random, start, steps, gap, 0.8)
    factor = np.exp(random.normal(0.5, 0.6, episodes))[steps.episode]
    cash = random.random(len(time)) < 0.1
    return _payments(
        time,
        source,
        np.where(
            cash,
            popular(random, world.agents, len(time)),
            popular(random, world.shops, len(time)),
        ),
        np.minimum(_habitual(random, world, source, factor), 11_500),
        np.where(cash, CASH_OUT, PAYMENT),
        whereabouts(world, source, time),
        status=np.where(random.random(len(time)) < 0.03, FAILED, 0),
    )


def retries(random: Random, world: World, episodes: int) -> Payments:
    """One ordinary payment tried several times: a bad connection, a wrong code."""
    payer = _people(random, world, episodes)
    steps = _steps(random.integers(2, 9, episodes))
    source = payer[steps.episode]
    time = _times(
        random, _starts(random, world, payer), steps, np.full(episodes, 1.0 * MINUTE), 0.8
    )
    payee = np.where(
        random.random(episodes) < 0.6,
        world.favourites[payer, 0],
        popular(random, world.shops, episodes),
    )
    amount = _habitual(random, world, payer, np.exp(random.normal(0, 0.9, episodes)))
    return _payments(
        time,
        source,
        payee[steps.episode],
        np.minimum(amount, 19_500)[steps.episode],
        PAYMENT,
        whereabouts(world, source, time),
        status=np.where(steps.last, SUCCESS, FAILED),
    )


def trials(random: Random, world: World, episodes: int) -> Payments:
    """One tiny payment to a digital merchant."""
    payer = _people(random, world, episodes)
    time = _starts(random, world, payer)
    return _payments(
        time,
        payer,
        popular(random, world.digital, episodes),
        20 + random.random(episodes) ** 2 * 600,
        PAYMENT,
        whereabouts(world, payer, time),
    )


def subscriptions(random: Random, world: World, episodes: int) -> Payments:
    """Tiny payments to several digital merchants: trials, apps, a card that is refused at first."""
    payer = _people(random, world, episodes)
    steps = _steps(random.integers(2, 8, episodes))
    source = payer[steps.episode]
    gap = np.exp(random.normal(np.log(4 * MINUTE), 1.2, episodes))
    time = _times(random, _starts(random, world, payer), steps, gap, 0.8)
    clumsy = random.random(episodes) < 0.25
    fails = random.random(len(time)) < np.where(clumsy, 0.35, 0.03)[steps.episode]
    return _payments(
        time,
        source,
        popular(random, world.digital, len(time)),
        20 + random.random(len(time)) ** 2 * 900,
        PAYMENT,
        whereabouts(world, source, time),
        status=np.where(fails, FAILED, 0),
    )


def passing_on(random: Random, world: World, episodes: int) -> Payments:
    """Money that comes in and goes on at once: a kitty, a shared rent, cash for a relative."""
    payer, middle = _people(random, world, episodes), _people(random, world, episodes)
    middle = _not_self(world, payer, middle)
    sizes = random.choice([2, 2, 3], episodes)
    steps = _steps(sizes)
    source = np.where(steps.number == 0, payer[steps.episode], middle[steps.episode])
    gap = np.exp(random.normal(np.log(25 * MINUTE), 1.0, episodes))
    time = _times(random, _starts(random, world, payer), steps, gap, 0.5)
    cash = (steps.number > 0) & (random.random(len(time)) < 0.4)
    payee = np.where(
        steps.number == 0,
        middle[steps.episode],
        np.where(
            cash,
            popular(random, world.agents, len(time)),
            random.integers(0, world.people, len(time)),
        ),
    )
    return _payments(
        time,
        source,
        _not_self(world, source, payee),
        random.choice([6_000, 12_000, 19_000], len(time)),
        np.where(cash, CASH_OUT, TRANSFER),
        whereabouts(world, source, time),
        share=random.uniform(0.25, 0.95, len(time)).astype(np.float32),
    )


# --- fraud -------------------------------------------------------------------------------------


def _thief_country(random: Random, world: World, victim: Ints, time: Times, abroad: float) -> Codes:
    """Where the payment seems to come from: abroad for some episodes, else where the victim is."""
    foreign = random.integers(0, len(COUNTRIES), len(victim)).astype(np.int8)
    hidden = random.random(len(victim)) >= abroad
    return np.where(hidden, whereabouts(world, victim, time), foreign).astype(np.int8)


def _mules(random: Random, world: World, victim: Ints) -> Ints:
    return _not_self(world, victim, random.choice(world.mules, len(victim)))


def takeovers(random: Random, world: World, episodes: int) -> Payments:
    """An account taken over: payments to mules and gift cards until the balance is gone.

    Half of them are over in minutes, the others take hours. What reaches a mule moves on.
    """
    victim = _people(random, world, episodes)
    start = _night_starts(random, world, victim, 0.3)
    steps = _steps(random.integers(4, 11, episodes))
    source = victim[steps.episode]
    slow = random.random(episodes) < 0.25
    gap = np.where(slow, 1.5 * HOUR, 4.0 * MINUTE)
    time = _times(random, start, steps, gap, 0.9)
    country = _thief_country(random, world, victim, start, 0.45)[steps.episode]
    gift_cards = (random.random(episodes) < 0.15)[steps.episode]
    mule = _mules(random, world, victim)
    other = _mules(random, world, source)
    payee = np.where(random.random(len(time)) < 0.4, mule[steps.episode], other)
    careful = (random.random(episodes) < 0.2)[steps.episode]
    taken = _payments(
        time,
        source,
        np.where(gift_cards, popular(random, world.shops, len(time)), payee),
        np.where(
            careful,
            _habitual(random, world, source, random.uniform(0.8, 3.5, len(time))),
            random.choice([4_500, 7_900, 7_900, 14_500, 19_500, 24_000], len(time)),
        ),
        np.where(gift_cards, PAYMENT, TRANSFER),
        country,
        share=np.where(careful, -1, random.uniform(0.15, 0.7, len(time))).astype(np.float32),
        status=np.where(random.random(len(time)) < 0.15, FAILED, 0),
        kind=TAKEOVER,
    )
    chained = steps.last & ~gift_cards & (random.random(len(time)) < 0.5)
    return _shuffled_with_chains(random, world, taken, steps, chained)


def drains(random: Random, world: World, episodes: int) -> Payments:
    """The victim is talked into paying most of the balance to a payee never seen before."""
    victim = _people(random, world, episodes)
    steps = _steps(random.choice([1, 2, 3, 4], episodes))
    source = victim[steps.episode]
    time = _times(
        random, _starts(random, world, victim), steps, np.full(episodes, 12.0 * MINUTE), 1.0
    )
    mule = _mules(random, world, victim)[steps.episode]
    taken = _payments(
        time,
        source,
        mule,
        random.choice([7_900, 15_000, 19_500, 19_500, 29_000], len(time)),
        TRANSFER,
        whereabouts(world, source, time),
        share=random.uniform(0.45, 0.98, len(time)).astype(np.float32),
        kind=DRAIN,
    )
    chained = steps.last & (random.random(len(time)) < 0.5)
    return _shuffled_with_chains(random, world, taken, steps, chained)


def _shuffled_with_chains(
    random: Random, world: World, taken: Payments, steps: Steps, chained: NDArray[np.bool_]
) -> Payments:
    """`taken` and what the mules do next, whole episodes together and in random order.

    The order matters because the caller cuts the end off to get its number of rows.
    """
    chains, of = _chains(random, world, taken, np.flatnonzero(chained))
    episode = np.concatenate([steps.episode, steps.episode[of]])
    order = np.argsort(episode, kind="stable")
    return concatenate([taken, chains]).pick(order)


def _chains(random: Random, world: World, taken: Payments, rows: Times) -> tuple[Payments, Times]:
    """One to four onward payments by the mules that received `rows`, and the row behind each."""
    if not len(rows):
        return _nothing(), rows
    steps = _steps(random.integers(1, 5, len(rows)))
    mule = taken.destination[rows][steps.episode]
    after = taken.time[rows] + np.exp(random.normal(np.log(20 * MINUTE), 1.1, len(rows))).astype(
        np.int64
    )
    time = _times(random, after, steps, np.full(len(rows), 14.0 * MINUTE), 1.0)
    cash = random.random(len(time)) < 0.5
    payee = np.where(cash, popular(random, world.agents, len(time)), _mules(random, world, mule))
    onward = _payments(
        time,
        mule,
        payee,
        random.choice([6_000, 12_000, 19_500, 28_000], len(time)),
        np.where(cash, CASH_OUT, TRANSFER),
        whereabouts(world, mule, time),
        share=random.uniform(0.35, 0.97, len(time)).astype(np.float32),
        kind=MULE_CHAIN,
    )
    return onward, rows[steps.episode]


def card_tests(random: Random, world: World, episodes: int) -> Payments:
    """Stolen credentials tried with tiny payments, quickly or in a trickle, then one real one."""
    victim = _people(random, world, episodes)
    start = _night_starts(random, world, victim, 0.15)
    steps = _steps(random.integers(5, 14, episodes))
    source = victim[steps.episode]
    trickle = random.random(episodes) < 0.2
    gap = np.where(trickle, 1.2 * HOUR, 2.0 * MINUTE)
    time = _times(random, start, steps, gap, 0.9)
    prize = steps.last & (random.random(episodes) < 0.5)[steps.episode]
    fails = ~prize & (random.random(len(time)) < 0.25)
    shop = popular(random, world.shops, len(time))
    return _payments(
        time,
        source,
        np.where(prize, shop, popular(random, world.digital, len(time))),
        np.where(
            prize,
            _habitual(random, world, source, np.full(len(time), 6.0)),
            10 + random.random(len(time)) ** 2 * 300,
        ),
        PAYMENT,
        _thief_country(random, world, victim, start, 0.2)[steps.episode],
        status=np.where(fails, FAILED, 0),
        kind=CARD_TESTING,
    )
