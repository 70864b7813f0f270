"""Arrays -> matplotlib figures: the only plotting code. It loads nothing and keeps no state."""

from mnet_jax.figures.ablation import (
    COSTS,
    CostPoint,
    CurvePanel,
    Curves,
    DifferenceRow,
    Series,
    forest,
    grid,
    learning_curves,
    log_linear,
    seeds,
    value_by_cost,
)
from mnet_jax.figures.bench import benchmark
from mnet_jax.figures.networks import Arrays, cost_by_depth, cost_shares, layer_profile, spiral, threshold_curve
from mnet_jax.figures.samples import confusion, contact_sheet, gallery
from mnet_jax.figures.style import GRID, INK, PALETTE, pdf, svg

__all__ = [
    "COSTS",
    "GRID",
    "INK",
    "PALETTE",
    "Arrays",
    "CostPoint",
    "CurvePanel",
    "Curves",
    "DifferenceRow",
    "Series",
    "benchmark",
    "confusion",
    "contact_sheet",
    "cost_by_depth",
    "cost_shares",
    "forest",
    "gallery",
    "grid",
    "layer_profile",
    "learning_curves",
    "log_linear",
    "pdf",
    "seeds",
    "spiral",
    "svg",
    "threshold_curve",
    "value_by_cost",
]
