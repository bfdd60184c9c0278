"""Moments of football matches, and the sponsor whose message did best at each.

What matters at a moment decides: the event first, then the zone, and on a quiet pitch the weather,
the minute, the crowd and the score. The sponsor that fits best has most of the probability, a
second one some, and any other a little: in one row of nine another one than the best is
the label, as no record of what an audience liked is free of chance. `best_probability` is that of
the sponsor that fits best.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]
Values = NDArray[np.float64]

ZONES: Final = ("VIP", "North", "South", "East", "West")
ZONE_SHARES: Final = (0.12, 0.24, 0.24, 0.2, 0.2)
EVENTS: Final = ("None", "Goal", "Card", "VAR", "Halftime", "Kickoff", "FinalWhistle")
EVENT_SHARES: Final = (0.46, 0.12, 0.12, 0.06, 0.1, 0.06, 0.08)
SPONSORS: Final = (
    "Pulsar Mobile",
    "Stridewell",
    "Sauvia Insurance",
    "Optiq Eyewear",
    "Brezo Snacks",
    "Voltade Energy",
    "Glacia Drinks",
    "Kafeo Coffee",
    "Orbita Air",
    "Meridian Bank",
    "Navetta Rides",
    "Playfield Games",
)
(MOBILE, SPORTSWEAR, INSURANCE, EYEWEAR, SNACKS, ENERGY) = range(6)
(COLD, HOT, TRAVEL, BANK, RIDES, GAMES) = range(6, 12)
NONE, GOAL, CARD, VAR, HALFTIME, KICKOFF, FINAL = range(7)
VIP = 0

SURE: Final = 0.89
UNSURE: Final = 0.8
"""The probability of the sponsor that fits best where the weather is clear, and where it is not:
within `BORDER` °C of where another one fits better."""
BORDER: Final = 1.0
COLD_AT: Final = 9.0
HOT_AT: Final = 22.0
WARMTH: Final = 10.0
"""How many °C warmer a full zone feels than an empty one."""
SECOND: Final = 0.6
"""Of what is left, the second one's part; the ten others share the rest."""


def sponsor_rows(rows: int, random: np.random.Generator) -> Mapping[str, Any]:
    """Columns (rows,) as the definition `sponsor` names them, and `best_probability`."""
    event = random.choice(len(EVENTS), rows, p=EVENT_SHARES)
    zone = random.choice(len(ZONES), rows, p=ZONE_SHARES)
    minute = _minutes(event, random)
    # Goals come with time, the home team's a little more often.
    goals = random.poisson(minute * 0.017), random.poisson(minute * 0.013)
    score = np.clip(goals[0] - goals[1], -10, 10)
    temperature: Values = random.normal(15.0, 9.0, rows).clip(-20, 50).round(1)
    crowd: Values = random.beta(5.0, 2.0, rows).round(2)
    best, second, chance = preferences(minute, score, temperature, crowd, zone, event)
    label = _drawn(best, second, chance, random)
    return {
        "match_minute": minute,
        "score_diff": score,
        "temperature": temperature,
        "crowd_density": crowd,
        "zone": np.array(ZONES)[zone],
        "event": np.array(EVENTS)[event],
        "recommended_sponsor": np.array(SPONSORS)[label],
        "best_probability": chance,
    }


def _minutes(event: Codes, random: np.random.Generator) -> Codes:
    """A whistle comes when it is due, anything else at any time; few matches go on after 95."""
    rows = len(event)
    longest = np.where(random.random(rows) < 0.1, 121, 96)
    minute = random.integers(0, longest)
    stoppage = random.integers(0, 6, rows)
    second_half = random.random(rows) < 0.5
    minute = np.where(event == HALFTIME, 45 + stoppage, minute)
    minute = np.where(event == KICKOFF, np.where(second_half, 45 + stoppage, 0), minute)
    return np.where(event == FINAL, np.where(longest > 96, 120, 90 + stoppage), minute)


def preferences(
    minute: Codes,
    score: Codes,
    temperature: Values,
    crowd: Values,
    zone: Codes,
    event: Codes,
) -> tuple[Codes, Codes, Values]:
    """Of each row the sponsor that fits best, the second one, and the best one's probability."""
    felt = temperature + WARMTH * (crowd - 0.7)
    hot, cold = felt >= HOT_AT, felt < COLD_AT
    late = minute + 3 * np.abs(score) >= 80
    # A quiet pitch: (conditions, best, second), the first that holds.
    quiet = [
        (zone == VIP, np.where(late, BANK, TRAVEL), np.where(late, TRAVEL, BANK)),
        (hot, COLD, ENERGY),
        (cold, HOT, SNACKS),
        (late & (crowd >= 0.75), RIDES, ENERGY),
        (minute < 15, ENERGY, SPORTSWEAR),
        (np.abs(score) >= 2, GAMES, SPORTSWEAR),
        (minute >= 0, SNACKS, GAMES),
    ]
    cases = [
        ((event == GOAL) & (score > 0), SPORTSWEAR, MOBILE),
        (event == GOAL, MOBILE, SPORTSWEAR),
        (event == CARD, INSURANCE, EYEWEAR),
        (event == VAR, EYEWEAR, INSURANCE),
        ((event == HALFTIME) & cold, HOT, SNACKS),
        (event == HALFTIME, SNACKS, COLD),
        (event == KICKOFF, ENERGY, SPORTSWEAR),
        ((event == FINAL) & (zone == VIP), BANK, RIDES),
        (event == FINAL, RIDES, SPORTSWEAR),
        *quiet,
    ]
    conditions = [condition for condition, _, _ in cases]
    best: Codes = np.select(conditions, [np.asarray(first) for _, first, _ in cases])
    second: Codes = np.select(conditions, [np.asarray(other) for _, _, other in cases])
    border = np.minimum(np.abs(felt - HOT_AT), np.abs(felt - COLD_AT)) < BORDER
    moved = (event == NONE) & (zone != VIP) & border
    return best, second, np.where(moved, UNSURE, SURE)


def _drawn(best: Codes, second: Codes, chance: Values, random: np.random.Generator) -> Codes:
    """A sponsor for each row, by its probabilities."""
    draw = random.random(len(best))
    # One of the ten that are neither, by counting past the two.
    low, high = np.minimum(best, second), np.maximum(best, second)
    other = random.integers(0, len(SPONSORS) - 2, len(best))
    other = other + (other >= low)
    other = other + (other >= high)
    runner_up = chance + SECOND * (1 - chance)
    return np.where(draw < chance, best, np.where(draw < runner_up, second, other))
