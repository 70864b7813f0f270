"""Figure 1 of the MobileNetV2 paper in numbers: what an activation loses of a 2-D spiral in n dimensions.

A spiral x is embedded by a random T (n x 2, standard normal), activated, y = act(T x), and projected back
by the pseudo-inverse of T. A point is collapsed where fewer than two units are active, that is strictly
within the bounds of the activation: y then varies in one direction at most, and a line of points shares it.

The rows of T are independent and as likely as their opposites, so each unit of a ReLU is active at a given
point with probability 1/2, independently of the others. The number of active units is Binomial(n, 1/2) at any
point but 0, hence the laws of `theory`, exact in the mean over T.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mnet_jax.errors import UserError
from mnet_jax.fields import COUNT, Field, Range
from mnet_jax.models.specs import ACTIVATIONS
from mnet_jax.tasks.base import Metric, Task

FIELDS = {
    "spiral.dim": Field(2, "dimension that the spiral is embedded in (V2 Figure 1)", COUNT),
    "spiral.points": Field(1000, "points on the spiral", Range(2, 1e6)),
    "spiral.act": Field("relu", "activation of the embedded spiral", tuple(ACTIVATIONS)),
}

METRICS = (
    Metric("collapsed", "collapsed", higher_is_better=False),
    Metric("collapsed_theory", "collapsed, theory", higher_is_better=False),
    Metric("all_zero", "all zero", higher_is_better=False),
    Metric("readout_error", "readout error", higher_is_better=False),
    Metric("pinv_error", "pinv error", higher_is_better=False),
)


def points_on_spiral(points: int) -> np.ndarray:
    """x_P2: three turns in the unit disc, the radius growing evenly to 1 from 0, which is left out."""
    radius = np.arange(1, points + 1) / points
    angle = 6 * np.pi * radius
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def embedding(dim: int, seed: int) -> np.ndarray:
    """T_N2 of a seed, N = `dim`, standard normal, from a Philox generator whose key is (seed, dim)."""
    key = np.array([seed, dim], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).standard_normal((dim, 2))


def measure(
    dim: int, act: str, points: int, seeds: Sequence[int]
) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """Embeds the spiral in `dim` dimensions, once for each seed, and measures what is lost.

    Returns:
      The metrics of `losses`, a dict for each seed, for ReLU with the law of "collapsed" beside it; "input" and
      "output" of the first seed, [points, 2].

    Raises:
      ValueError: `dim` below 1, `points` below 2, or an activation that is not in `ACTIVATIONS`.
    """
    if act not in ACTIVATIONS:
        raise UserError(f"spiral.act={act!r}: allowed are {', '.join(ACTIVATIONS)}")
    for name, value, least in (("dim", dim, 1), ("points", points, 2)):
        if value < least:
            raise UserError(f"spiral.{name}={value}: allowed are whole numbers from {least}")
    x_P2 = points_on_spiral(points)
    t_SN2 = np.stack([embedding(dim, seed) for seed in seeds])
    metrics, output_SP2 = losses(x_P2, t_SN2, *ACTIVATIONS[act])
    law = {"collapsed_theory": theory(dim)["collapsed"]} if act == "relu" else {}
    rows = [
        {"collapsed": float(metrics["collapsed"][row])} | law | {name: float(of[row]) for name, of in metrics.items()}
        for row in range(len(seeds))
    ]
    return rows, {"input": x_P2, "output": output_SP2[0]}


def losses(x_P2: np.ndarray, t_SN2: np.ndarray, low: float, high: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What y = clip(T x, low, high) loses of the points x, for S embeddings T.

    Returns:
      Metrics [S], and the points projected back [S, P, 2]. Errors are relative to the root mean square of x.
        collapsed       share of points with fewer than two active units
        all_zero        share of points with y = 0
        readout_error   of the best affine read-out of x from y
        pinv_error      of the paper's projection by the pseudo-inverse of T, rescaled by the best factor
                        (as it is, it is huge where T is nearly singular)
    """
    h_SPN = x_P2 @ t_SN2.mT
    y_SPN = np.clip(h_SPN, low, high)
    active_SP = ((low < h_SPN) & (h_SPN < high)).sum(-1)
    output_SP2 = y_SPN @ np.linalg.pinv(t_SN2).mT
    scale_S = (output_SP2 * x_P2).sum((1, 2)) / np.square(output_SP2).sum((1, 2))
    metrics = {
        "collapsed": (active_SP < 2).mean(1),
        "all_zero": (y_SPN == 0).all(2).mean(1),
        "readout_error": _readout_residual(y_SPN, x_P2) / np.linalg.norm(x_P2),
        "pinv_error": _norm(scale_S[:, None, None] * output_SP2 - x_P2) / np.linalg.norm(x_P2),
    }
    return metrics, output_SP2


def theory(dim: int) -> dict[str, float]:
    """The exact means over T of two metrics of a ReLU: P(Binomial(n, 1/2) < 2) = (n + 1) / 2^n, and 2^-n."""
    return {"collapsed": float(1 - retained(2, dim)), "all_zero": 2.0**-dim}


def retained(n: int, m: int) -> Fraction:
    """Share of an n-dimensional volume that ReLU(Bx) in m dimensions keeps n-dimensional, in the mean over B.

    N_{m,n} / 2^m = P(Binomial(m, 1/2) >= n), as at least n units must be active (Sandler et al. 2018,
    Appendix A, Theorem 1). The theorem rightly has V - N V / 2^m as the volume that collapses; the text after
    its proof calls N / 2^m the "fraction of collapsed space" (arXiv 1801.04381v4), a misprint for retained.
    """
    return Fraction(sum(math.comb(m, k) for k in range(n, m + 1)), 2**m)


def _readout_residual(y_SPN: np.ndarray, x_P2: np.ndarray) -> np.ndarray:
    """Norm [S] of x less its least-squares fit by [y, 1], solved on the small triangle R of [y, 1, x]."""
    x_SP2 = np.broadcast_to(x_P2, (*y_SPN.shape[:2], 2))
    columns = np.concatenate([y_SPN, np.ones_like(x_SP2[..., :1]), x_SP2], axis=2)
    triangle = np.linalg.qr(columns).R
    features, targets = triangle[..., :-2], triangle[..., -2:]
    return _norm(features @ (np.linalg.pinv(features, rcond=1e-12) @ targets) - targets)


def _norm(x_SP2: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(x_SP2).sum((1, 2)))


def run(cfg: Any, seeds: Sequence[int]) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """`measure` by the fields `spiral.*`."""
    return measure(cfg.spiral.dim, cfg.spiral.act, cfg.spiral.points, seeds)


def pictures(workdir: Path, sweep: Any) -> Iterator[tuple[str, Any, str]]:
    """The spiral and its projections back, of seed 0 of every arm."""
    from mnet_jax import figures, results

    panels = []
    for run in sweep.runs:
        arrays = results.read_arrays(workdir, run.name) if run.seed == 0 else {}
        if "input" in arrays and "output" in arrays:
            panels += [] if panels else [("Input", arrays["input"])]
            panels.append((f"Output/{run.arm}", arrays["output"]))
    if panels:
        caption = "The spiral, and what the activation left of it, projected back; seed 0 of every arm."
        yield "The spiral", figures.spiral(panels), caption


TASK = Task(name="spiral", metrics=lambda cfg: METRICS, fields=FIELDS, measure=run, pictures=pictures)
