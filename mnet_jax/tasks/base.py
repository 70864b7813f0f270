"""What every task declares: its metrics."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A number that every run of a task ends with.

    `name`              its key in rows, metrics.jsonl and claims, such as "top5_accuracy".
    `title`             what a reader sees, such as "top-5 accuracy".
    `unit`              "%" for fractions, which are stored from 0 to 1, printed times 100, and whose differences are in
                        points; any other unit ("nats", "km", "") is printed behind the number as it is stored.
    `decimals`          digits behind the point in print; None prints three significant digits.
    `higher_is_better`  the direction, for tuning and for words like "best".
    `diverged`          what a run whose loss stopped being finite scores, as stored: the level of guessing. None where
                        such a run has no score.
    `group`             "test" for what is measured on the held-out images, "training" for what is measured on the
                        training images, "inside" for what is measured inside the trained network.
    """

    name: str
    title: str
    unit: str = ""
    decimals: int | None = None
    higher_is_better: bool = True
    diverged: float | None = None
    group: str = "test"

    @property
    def print_factor(self) -> float:
        """What a stored value is multiplied with in print."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def difference_unit(self) -> str:
        """The unit of a difference of two printed values."""
        return "points" if self.unit == "%" else self.unit
