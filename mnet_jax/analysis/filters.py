"""Dead channels and filters, and how much that depends on what "dead" means.

    dead            a channel that does not vary: its standard deviation behind its activation, over images and pixels,
                    is below 1e-3; one that is always 0 and one that is always 6 alike
    little used     a depthwise filter that the next layer hardly sees: that deviation times the norm of the row of the
                    next 1x1 convolution, BatchNorm folded in, is below 1 % of the layer's largest
    small           a depthwise filter whose norm is below a tenth of the layer's median: with BatchNorm folded in, or
                    raw (which says nothing, as BatchNorm undoes any factor)

The first two do not depend on the scale of a raw kernel. The curves give the share that each definition finds as a
function of its threshold. A network whose convolutions are full has no depthwise filters here.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mnet_jax.analysis.activations import Block

THRESHOLDS = np.logspace(-5, 0, 26)
"""Of the curves; those of `DEFINITIONS` are among them."""

DEFINITIONS = {
    "dead_bottleneck": 1e-3,
    "dead_depthwise": 1e-3,
    "little_used_depthwise": 1e-2,
    "small_folded": 1e-1,
    "small_raw": 1e-1,
}
"""What `quantities` measures -> below what a channel or filter counts."""


def folded(layer: Mapping[str, Any], statistics: Mapping[str, Any], eps: float) -> np.ndarray:
    """The layer's kernel, its output channels multiplied as BatchNorm does in an evaluation."""
    gain_C = np.asarray(layer["scale"], np.float64) / np.sqrt(np.asarray(statistics["var"], np.float64) + eps)
    return np.asarray(layer["kernel"], np.float64) * gain_C


def quantities(
    block: "Block", params: Mapping[str, Any], batch_stats: Mapping[str, Any], eps: float
) -> dict[str, np.ndarray]:
    """What the channels and filters of a block are judged by, each [C]; `params` and `batch_stats` are the block's."""
    found = {}
    if block.bottleneck is not None:
        found["dead_bottleneck"] = np.sqrt(np.maximum(np.diag(block.bottleneck), 0))
    if block.depthwise is not None:
        layer, following = params["depthwise"], "project" if "project" in params else "pointwise"
        rows_E = np.linalg.norm(folded(params[following], batch_stats[following], eps), axis=1)
        use_E = block.depthwise * rows_E
        folded_E, raw_E = (
            np.sqrt(np.square(np.asarray(kernel_KKE, np.float64)).sum((0, 1)))
            for kernel_KKE in (folded(layer, batch_stats["depthwise"], eps), layer["kernel"])
        )
        found |= {
            "dead_depthwise": block.depthwise,
            "little_used_depthwise": _relative(use_E, use_E.max()),
            "small_folded": _relative(folded_E, np.median(folded_E)),
            "small_raw": _relative(raw_E, np.median(raw_E)),
        }
    return found


def _relative(values: np.ndarray, to: float) -> np.ndarray:
    return values / to if to > 0 else np.zeros_like(values)


def measure(
    blocks: "Sequence[Block]", params: Mapping[str, Any], batch_stats: Mapping[str, Any], eps: float
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Shares of a network's channels and filters that are dead, little used and small.

    Returns the shares of all in the network, by the names of `DEFINITIONS`; and arrays: the shares layer by layer, with
    the layers' blocks and channels, and the curves. Definitions of layers that the network has not are left out.
    """
    each = [
        quantities(block, params["blocks"][index], batch_stats["blocks"][index], eps)
        for index, block in enumerate(blocks)
    ]
    shares, arrays = {}, {"curve/threshold": THRESHOLDS}
    for name, threshold in DEFINITIONS.items():
        layers = {number: found[name] for number, found in enumerate(each, 1) if name in found}
        if layers:
            every = np.concatenate(list(layers.values()))
            shares[name] = float(np.mean(every < threshold))
            arrays[f"curve/{name}"] = np.mean(every[None] < THRESHOLDS[:, None], 1)
            arrays[f"{name}/share"] = np.array([float(np.mean(values < threshold)) for values in layers.values()])
            arrays[f"{name}/block"] = np.array(list(layers))
            arrays[f"{name}/channels"] = np.array([len(values) for values in layers.values()])
    return shares, arrays
