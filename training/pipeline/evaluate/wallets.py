"""Which wallets a team would look at each day."""

import numpy as np

from training.pipeline.evaluate.part import Array, Codes, Mask
from training.pipeline.evaluate.ranking import Weights

DAY_US = 86_400_000_000
WALLETS_A_DAY = 100
# The hundredth wallet is nearly always among the first thousand, also of a resample.
FIRST = 1_000


class WalletDays:
    """The rows of a part gathered by UTC day and wallet.

    Args:
        labels: (rows,) confirmed frauds.
        wallets: (rows,) source wallets from 0 on.
        created_at: (rows,) microseconds since 1970, UTC.
    """

    def __init__(self, labels: Mask, wallets: Codes, created_at: Codes) -> None:
        days = created_at // DAY_US
        self.order = np.lexsort((wallets, days))
        day, wallet = days[self.order], wallets[self.order]
        another = (day[1:] != day[:-1]) | (wallet[1:] != wallet[:-1])
        self.first = np.flatnonzero(np.append(True, another))
        self.day, self.wallet = day[self.first], wallet[self.first]
        self.compromised = np.logical_or.reduceat(labels[self.order], self.first)
        limits = np.flatnonzero(np.diff(self.day)) + 1
        ends = [*limits.tolist(), len(self.day)]
        self.days = [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]

    @property
    def compromised_a_day(self) -> float:
        """How many wallets are compromised on a day, on average."""
        return float(self.compromised.sum() / len(self.days))


class DailyWallets:
    """The wallets of each day, as a team that can look at 100 of them a day would see them.

    It is the card precision top-100 of the Fraud Detection Handbook (Le Borgne, Siblini, Lebichot
    and Bontempi, 2022, "Precision top-k metrics"): a wallet's score on a day is its highest of that
    day, and it is compromised on a day on which it has a fraud. Each day the 100 wallets with the
    highest scores are looked at; the day's precision is the number of compromised ones among them
    divided by 100, also on a day with fewer wallets; a compromised wallet that was looked at is
    left out on the days after it. The figure is the mean over the days that have a transaction.
    In a group of equal scores that straddles the line compromised wallets count in proportion, and
    stay.
    """

    FIGURE = "card_precision_at_100"

    def __init__(self, scores: Array, wallet_days: WalletDays) -> None:
        highest = np.maximum.reduceat(scores[wallet_days.order], wallet_days.first)
        ranked = np.lexsort((-highest, wallet_days.day))
        self._days = wallet_days.days
        self._wallets = wallet_days.wallet[ranked]
        self._compromised = wallet_days.compromised[ranked]
        self._descending = -highest[ranked]

    def precision(self, weights: Weights) -> float:
        """The figure, in [0, 1], when each wallet counts `weights` (wallets,) times."""
        left = weights.astype(np.int64)
        return float(np.mean([self._day(day, left) for day in self._days]))

    def _day(self, day: slice, left: Codes) -> float:
        """One day's precision; takes the compromised wallets that were looked at out of `left`."""
        wallets, compromised = self._wallets[day], self._compromised[day]
        looked_at = np.cumsum(left[wallets[:FIRST]])
        if looked_at[-1] < WALLETS_A_DAY:
            looked_at = np.cumsum(left[wallets])
        if looked_at[-1] < WALLETS_A_DAY:
            begin = end = len(wallets)
        else:
            # The group of equal scores in which the hundredth wallet is.
            descending = self._descending[day]
            last = descending[np.searchsorted(looked_at, WALLETS_A_DAY)]
            begin = int(np.searchsorted(descending, last, side="left"))
            end = int(np.searchsorted(descending, last, side="right"))
        surely = wallets[:begin][compromised[:begin]]
        found = float(left[surely].sum())
        left[surely] = 0
        if end > begin:
            tied = left[wallets[begin:end]]
            room = WALLETS_A_DAY - (looked_at[begin - 1] if begin else 0)
            found += room / tied.sum() * float(tied[compromised[begin:end]].sum())
            if room == tied.sum():
                left[wallets[begin:end][compromised[begin:end]]] = 0
        return found / WALLETS_A_DAY
