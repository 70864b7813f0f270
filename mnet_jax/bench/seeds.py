"""Many runs in one program (vmap) against one after the other."""

from collections.abc import Mapping, Sequence

from mnet_jax.bench import contest
from mnet_jax.bench.contest import Entrant, Result, Settings, Table
from mnet_jax.bench.step import SMALL_IMAGES, V2, Regime

ROUNDS = 9
D17 = {"name": "d17", "in_channels": 1, "num_classes": 10}
REGIMES = {
    "V2 0.35 at 32, batch 64": Regime(V2 | SMALL_IMAGES | {"width": 0.35}, 32, 64),
    "V2 0.35 at 32, batch 8": Regime(V2 | SMALL_IMAGES | {"width": 0.35}, 32, 8),
    "d17 at 16, batch 60": Regime(D17, 16, 60),
    "d17 at 16, batch 8": Regime(D17, 16, 8),
}


def measure(settings: Settings, regimes: Mapping[str, Regime] = REGIMES, runs: Sequence[int] = (4, 8)) -> Result:
    """The time of S steps, one each of S seeds: one after the other, over in one program."""
    rows: list[contest.Row] = []
    raw = {}
    for name, regime in regimes.items():
        entrants = {
            f"{number} at once": Entrant("train mnet_jax", {**regime.task, "runs": number}, "train")
            for number in (1, *runs)
        }
        times = contest.contest(entrants, settings._replace(rounds=max(settings.rounds, ROUNDS)), f"seeds, {name}")
        raw[name] = contest.raw(times)
        single, *many = times.values()
        cells = [_ms(single)]
        for number, entry in zip(runs, many, strict=True):
            cells += [_ms(entry), *_gain(single, entry, number)]
        rows.append((name, *cells))
    columns = [cell for number in runs for cell in (f"{number} at once (ms)", "times faster than alone", "min - max")]
    return Result([Table("A training step of several seeds", ("", "1 (ms)", *columns), rows)], raw)


def _ms(entry: contest.Times) -> str:
    return entry.failed or f"{1e3 * entry.median:.4g}"


def _gain(single: contest.Times, many: contest.Times, number: int) -> tuple[str, str]:
    if single.failed or many.failed:
        return "", ""
    alone_over_many = zip(single.seconds, many.seconds, strict=True)
    gain = contest.spread([number * alone / several for alone, several in alone_over_many])
    return f"{gain.median:.2f}", f"{gain.low:.2f} - {gain.high:.2f}"
