"""The frauds: accounts taken over, victims talked into paying, mules, stolen cards tried out."""

import numpy as np
from numpy.typing import NDArray

from training.pipeline.simulate_episodes import (
    Steps,
    concatenate,
    draw_people,
    exactly,
    habitual,
    in_steps,
    make_payments,
    night_starts,
    not_self,
    nothing,
    starts_of,
    times_of,
)
from training.pipeline.simulate_people import (
    CASH_OUT,
    COUNTRIES,
    FAILED,
    HOUR,
    MINUTE,
    PAYMENT,
    TRANSFER,
    Codes,
    Ints,
    Payments,
    Random,
    Times,
    World,
    popular,
    whereabouts,
)

FRAUD_KINDS = ("account_takeover", "new_payee_drain", "mule_chain", "card_testing")
TAKEOVER, DRAIN, MULE_CHAIN, CARD_TESTING = range(1, len(FRAUD_KINDS) + 1)


def fraud_episodes(random: Random, world: World, count: int) -> Payments:
    """Exactly `count` fraudulent payments of the four kinds."""
    makers = ((0.51, takeovers), (0.15, drains), (0.34, card_tests))
    return exactly(random, world, count, makers)


def _thief_country(random: Random, world: World, victim: Ints, time: Times, abroad: float) -> Codes:
    """Where the payment seems to come from: abroad for some episodes, else where the victim is."""
    foreign = random.integers(0, len(COUNTRIES), len(victim)).astype(np.int8)
    hidden = random.random(len(victim)) >= abroad
    return np.where(hidden, whereabouts(world, victim, time), foreign).astype(np.int8)


def _mules(random: Random, world: World, victim: Ints) -> Ints:
    return not_self(world, victim, random.choice(world.mules, len(victim)))


def takeovers(random: Random, world: World, episodes: int) -> Payments:
    """An account taken over: payments to mules and gift cards until the balance is gone.

    Half of them are over in minutes, the others take hours. What reaches a mule moves on.
    """
    victim = draw_people(random, world, episodes)
    start = night_starts(random, world, victim, 0.3)
    steps = in_steps(random.integers(4, 11, episodes))
    source = victim[steps.episode]
    slow = random.random(episodes) < 0.2
    gap = np.where(slow, 1.5 * HOUR, 4.0 * MINUTE)
    time = times_of(random, start, steps, gap, 0.9)
    country = _thief_country(random, world, victim, start, 0.45)[steps.episode]
    gift_cards = (random.random(episodes) < 0.15)[steps.episode]
    mule = _mules(random, world, victim)
    other = _mules(random, world, source)
    payee = np.where(random.random(len(time)) < 0.4, mule[steps.episode], other)
    careful = (random.random(episodes) < 0.12)[steps.episode]
    taken = make_payments(
        time,
        source,
        np.where(gift_cards, popular(random, world.shops, len(time)), payee),
        np.where(
            careful,
            habitual(random, world, source, random.uniform(0.8, 3.5, len(time))),
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
    victim = draw_people(random, world, episodes)
    steps = in_steps(random.choice([1, 2, 3, 4], episodes))
    source = victim[steps.episode]
    time = times_of(
        random, starts_of(random, world, victim), steps, np.full(episodes, 12.0 * MINUTE), 1.0
    )
    mule = _mules(random, world, victim)[steps.episode]
    taken = make_payments(
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
        return nothing(), rows
    steps = in_steps(random.integers(1, 5, len(rows)))
    mule = taken.destination[rows][steps.episode]
    after = taken.time[rows] + np.exp(random.normal(np.log(20 * MINUTE), 1.1, len(rows))).astype(
        np.int64
    )
    time = times_of(random, after, steps, np.full(len(rows), 14.0 * MINUTE), 1.0)
    cash = random.random(len(time)) < 0.5
    payee = np.where(cash, popular(random, world.agents, len(time)), _mules(random, world, mule))
    onward = make_payments(
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
    victim = draw_people(random, world, episodes)
    start = night_starts(random, world, victim, 0.15)
    steps = in_steps(random.integers(5, 14, episodes))
    source = victim[steps.episode]
    trickle = random.random(episodes) < 0.2
    gap = np.where(trickle, 1.2 * HOUR, 2.0 * MINUTE)
    time = times_of(random, start, steps, gap, 0.9)
    prize = steps.last & (random.random(episodes) < 0.5)[steps.episode]
    fails = ~prize & (random.random(len(time)) < 0.25)
    shop = popular(random, world.shops, len(time))
    return make_payments(
        time,
        source,
        np.where(prize, shop, popular(random, world.digital, len(time))),
        np.where(
            prize,
            habitual(random, world, source, np.full(len(time), 6.0)),
            10 + random.random(len(time)) ** 2 * 300,
        ),
        PAYMENT,
        _thief_country(random, world, victim, start, 0.2)[steps.episode],
        status=np.where(fails, FAILED, 0),
        kind=CARD_TESTING,
    )
