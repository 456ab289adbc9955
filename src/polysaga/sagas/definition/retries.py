"""When to retry, as data."""

from dataclasses import dataclass

from polysaga.sagas.definition.options import check_factor, check_seconds

_STEEPEST = 1000.0  # the power of a larger factor would leave the range of numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Exponential back-off with equal jitter ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

    The budget is time, not a count: a frozen owner's locks expire after seconds, however many attempts are made.
    *within* 0 means one attempt. Raises `DefinitionError` for a value that is no number, negative or too large.
    """

    within: float | None = 20.0  # seconds after the first attempt in which another may begin; None: for ever
    first: float = 0.05  # seconds before the second attempt, at most
    factor: float = 2.0  # from 1 to 1000
    cap: float = 2.0  # seconds between two attempts, at most

    def __post_init__(self) -> None:
        check_seconds(self.within, "the option within= of a Retry", zero=True, none="for ever")
        check_seconds(self.first, "the option first= of a Retry")
        check_factor(self.factor, "the option factor= of a Retry", _STEEPEST)
        check_seconds(self.cap, "the option cap= of a Retry")

    def delay(self, attempt: int, elapsed: float, chance: float) -> float | None:
        """Return the seconds to wait after failed *attempt* (from 1), or None when the budget is spent.

        *elapsed* is the seconds since the first attempt began, less time in a queue; *chance* is random in [0, 1).
        """
        ceiling = min(self.cap, self.first * self.factor ** min(attempt - 1, 62))
        wait = ceiling * (0.5 + chance / 2)
        if self.within is not None and elapsed + wait > self.within:
            return None
        return wait


STEP = Retry()
COMPENSATION = Retry(within=5 * 60.0, cap=10.0)
RETRIABLE = Retry(within=60.0, cap=10.0)  # then the saga is put aside and woken later, for ever
