"""What trained networks do inside: positive channels (V2 Figure 7), dead channels and filters, ranks of features.

Measured by one pass over a run's held-out images, at the end of its training (`config.analysis`) or afterwards
(`python -m mnet_jax.analysis WORKDIR`). Either way the scalars stand among the row's metrics (`METRICS`) and the rest
in the run's arrays.npz (`results.read_arrays`), shares as fractions, for the L layers of a kind:

    active/block, channels, threshold               [L] expansions: their block, width, the block's input channels
    active/mean, std, min, max, above               [L] positive channels of a pixel; share of pixels at the threshold
    initial/...                                     the same at step 0, where running statistics normalize nothing yet
    rank/block, channels, participation, entropy    [L] effective ranks of the bottlenecks (`activations.ranks`)
    NAME/block, channels, share                     [L] for every NAME of `filters.DEFINITIONS`
    curve/threshold, curve/NAME                     [T] share of all channels of the network, by NAME's threshold
"""

import csv
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from mnet_jax.tasks.base import Metric

if TYPE_CHECKING:
    from mnet_jax.analysis.activations import Block, Weights

METRICS = tuple(
    Metric(name, title, "%", 2, group="inside")
    for name, title in (
        ("dead_bottleneck", "dead bottleneck channels"),
        ("dead_depthwise", "dead depthwise filters"),
        ("little_used_depthwise", "little-used depthwise filters"),
        ("active_share", "positive expansion channels of a pixel"),
        ("active_sd", "sd over pixels of positive expansion channels"),
        ("above_threshold", "pixels whose expansion can be inverted"),
    )
)
"""Scalars of a row, each where the network has such layers.

The first three are shares of all channels of that kind in the network (`filters`), the others means over its
expansions: the share of positive channels, its standard deviation over pixels, the share of pixels at the threshold.
"""


def measure(
    cfg: Any,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    trained: "Weights",
    initial: "Weights",
    batches: Iterable[tuple[Any, Any]],
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Measures one V1, V2 or V3, with depthwise or full convolutions and any shortcut.

    Args:
      cfg: the run's config.
      mean: of the channels of images in [0, 1], and `std`, by which the training normalized them.
      std: see `mean`.
      trained: (params, batch_stats) at the end of the training, as pure dicts.
      initial: the same at step 0.
      batches: pairs (images_BHWC uint8, mask_B float32), all of one shape; images with mask 0 do not count.

    Returns:
      The `METRICS` that the network has, and the arrays of this module's docstring.

    Raises:
      ValueError: the network is not of these families.
    """
    from mnet_jax.analysis import activations, filters

    blocks, at_start = activations.measure(cfg, mean, std, (trained, initial), batches)
    shares, arrays = filters.measure(blocks, *trained, cfg.model.norm.eps)
    metrics = {metric.name: shares[metric.name] for metric in METRICS if metric.name in shares}
    if ranked := {number: block.bottleneck for number, block in enumerate(blocks, 1) if block.bottleneck is not None}:
        participation, entropy = zip(*map(activations.ranks, ranked.values()), strict=True)
        channels = [len(covariance_CC) for covariance_CC in ranked.values()]
        columns = {"block": list(ranked), "channels": channels, "participation": participation, "entropy": entropy}
        arrays |= {f"rank/{name}": np.array(values) for name, values in columns.items()}
    if any(block.active for block in blocks):
        arrays |= _columns("active", blocks) | _columns("initial", at_start)
        metrics["active_share"] = float(np.mean(arrays["active/mean"] / arrays["active/channels"]))
        metrics["active_sd"] = float(np.mean(arrays["active/std"] / arrays["active/channels"]))
        metrics["above_threshold"] = float(np.mean(arrays["active/above"]))
    return metrics, arrays


def _columns(name: str, blocks: "list[Block]") -> dict[str, np.ndarray]:
    rows = {number: block.active for number, block in enumerate(blocks, 1) if block.active}
    columns = {"block": list(rows)} | {
        field: [getattr(row, field) for row in rows.values()] for field in next(iter(rows.values()))._fields
    }
    return {f"{name}/{field}": np.array(values) for field, values in columns.items()}


def batches(images_NHWC: np.ndarray, indices: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(images_BHWC, mask_B) of `indices`, each once; the last batch is filled up with images whose mask is 0."""
    for start in range(0, len(indices), size):
        index = indices[start : start + size]
        yield images_NHWC[np.resize(index, size)], (np.arange(size) < len(index)).astype(np.float32)


def published() -> dict[str, np.ndarray]:
    """Sandler et al. 2018, Figure 7, read from its vectors: "active/..." and "initial/..." as `measure` has them.

    MobileNetV2 on ImageNet at 224 x 224, the 16 expansions of blocks 2 to 17; no standard deviations are printed.
    """
    text = (resources.files("mnet_jax.analysis") / "figure7.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    return {
        f"{state}/{field}": np.array([float(row[field]) for row in rows if row["state"] == state])
        for state in ("initial", "active")
        for field in ("block", "channels", "threshold", "mean", "min", "max")
    }
