"""Activations of a network's blocks over images: positive channels (V2 Figure 7), deviations, effective ranks.

Sandler et al. 2018, Appendix A: ReLU(Bx) of n inputs in general position can be inverted where at least n of its
outputs are positive. Figure 7 therefore counts the positive channels of each pixel after every expansion, and compares
the counts with the channels of the bottleneck that is expanded, the threshold.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mnet_jax import config
from mnet_jax.data import augment
from mnet_jax.errors import UserError
from mnet_jax.models import specs
from mnet_jax.models.mobilenet import MobileNet

Weights = tuple[Mapping[str, Any], Mapping[str, Any]]
"""(params, batch_stats) as pure dicts."""


class Active(NamedTuple):
    """Positive channels of the pixels of an expansion, out of `channels`; `above` is the share at the threshold."""

    channels: int
    threshold: int
    mean: float
    std: float
    min: int
    max: int
    above: float


class Block(NamedTuple):
    """What one block did over all images and pixels; None where it has no such layer.

    `active`      of its expansion.
    `depthwise`   std_E of the depthwise channels behind their activation (V3: behind the gate).
    `bottleneck`  covariance_CC of the projection's output, before the shortcut.
    """

    active: Active | None
    depthwise: np.ndarray | None
    bottleneck: np.ndarray | None


def measure(
    cfg: Any,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    networks: Sequence[Weights],
    batches: Iterable[tuple[Any, Any]],
) -> list[list[Block]]:
    """Measures every block of one or several sets of weights of a MobileNet, in evaluation mode.

    The other arguments are those of `analysis.measure`. A batch leaves its moments about its own means, in float32, and
    the batches are joined in float64, so that a channel that does not vary has no deviation, whatever its value.
    """
    if cfg.model.name not in specs.NETWORKS:
        raise UserError(f"{cfg.model.name} has no blocks to analyze; allowed: {', '.join(specs.NETWORKS)}")
    # Neither changes what the weights compute: the activation's bounds are arguments, a split only saves memory.
    net = dataclasses.replace(specs.network(cfg.model), project_act="linear", split=1)
    of_batch = _program(net, mean, std)
    on_device = jax.device_put(tuple(networks))
    images_N: list[float] = []
    found: list[list[Any]] = [[] for _ in networks]
    for images_BHWC, mask_B in batches:
        images_N.append(float(np.sum(mask_B)))
        batch = jax.device_put((images_BHWC, mask_B))
        for found_N, weights in zip(found, on_device, strict=True):
            found_N.append(jax.device_get(of_batch(*weights, config.traced_values(cfg), *batch)))
    share_N = np.array(images_N) / np.sum(images_N)
    return [
        [_joined(share_N, of_block_N, params["blocks"][i]) for i, of_block_N in enumerate(zip(*found_N, strict=True))]
        for found_N, (params, _) in zip(found, networks, strict=True)
    ]


@functools.lru_cache(maxsize=4)
def _program(net: specs.Network, mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[..., list[dict]]:
    """The jitted measurement of one batch: for each block the moments of its layers."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: MobileNet(net)))

    @jax.jit
    def of_batch(params, batch_stats, knobs, images_BHWC, mask_B):
        model = nnx.merge(graphdef, params, batch_stats)
        model.eval()
        _, endpoints = model(augment.normalize(images_BHWC, mean, std), knobs=knobs)
        found, before = [], None
        for number, block in enumerate(model.blocks, 1):
            of_block = {}
            filtered = endpoints.get(f"block{number}/depthwise")
            if hasattr(block, "expand"):
                threshold = block.expand.kernel.shape[-2]
                of_block["active"] = _positive(endpoints[f"block{number}/expansion"], mask_B, threshold)
            if hasattr(block, "depthwise") and block.depthwise.kind == "depthwise":
                joins = net.shortcut == "expansion" and before is not None and before.shape == filtered.shape
                of_block["depthwise"] = _moments(filtered - before if joins else filtered, mask_B)
            if hasattr(block, "project"):
                of_block["bottleneck"] = _moments(block.project(filtered, knobs.project_act), mask_B, covariance=True)
            found.append(of_block)
            before = filtered
        return found

    return of_batch


def _positive(x_BHWE: jax.Array, mask_B: jax.Array, threshold: int) -> dict[str, jax.Array]:
    """Of the positive channels of each pixel: "min", "max", and moments [2], the second of being at the threshold."""
    count_BHW = jnp.sum(x_BHWE > 0, -1, dtype=jnp.int32)
    there_B11 = mask_B[:, None, None] > 0
    both_BHW2 = jnp.stack([count_BHW, (count_BHW >= threshold).astype(jnp.int32)], -1)
    return _moments(both_BHW2, mask_B) | {
        "min": jnp.min(jnp.where(there_B11, count_BHW, x_BHWE.shape[-1])),
        "max": jnp.max(jnp.where(there_B11, count_BHW, 0)),
    }


def _moments(x_BHWC: jax.Array, mask_B: jax.Array, covariance: bool = False) -> dict[str, jax.Array]:
    """{"mean": [C], "var": [C] or [C, C]} over the pixels of the images that count, in float32.

    Deviations are taken from a mean that is rounded, and what they show of its error is taken out.
    """
    x_MC = x_BHWC.astype(jnp.float32).reshape(-1, x_BHWC.shape[-1])
    weight_M = jnp.repeat(mask_B / jnp.sum(mask_B), len(x_MC) // len(mask_B)) * (len(mask_B) / len(x_MC))
    exact = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)  # accelerators round factors otherwise
    mean_C = exact(weight_M, x_MC)
    off_MC = x_MC - mean_C[None]
    error_C = exact(weight_M, off_MC)
    weighted_MC = off_MC * weight_M[:, None]
    if covariance:
        var = exact(weighted_MC.T, off_MC) - jnp.outer(error_C, error_C)
    else:
        var = jnp.sum(weighted_MC * off_MC, 0) - jnp.square(error_C)
    return {"mean": mean_C + error_C, "var": var}


def _joined(share_N: np.ndarray, of_batches: Sequence[Mapping[str, Any]], layers: Mapping[str, Any]) -> Block:
    """One block over all batches, by the law of total variance; `share_N` are the batches' shares of the images."""

    def joined(name: str) -> tuple[np.ndarray, np.ndarray]:
        mean_NC = np.stack([found[name]["mean"] for found in of_batches]).astype(np.float64)
        within = np.stack([found[name]["var"] for found in of_batches]).astype(np.float64)
        mean_C = share_N @ mean_NC
        off_NC = mean_NC - mean_C
        between = off_NC[:, :, None] * off_NC[:, None] if within.ndim == 3 else np.square(off_NC)
        return mean_C, np.tensordot(share_N, within + between, 1)

    active = depthwise = bottleneck = None
    if "active" in of_batches[0]:
        threshold, channels = layers["expand"]["kernel"].shape
        (mean, above), (var, _) = joined("active")
        every = [found["active"] for found in of_batches]
        lowest, highest = min(int(found["min"]) for found in every), max(int(found["max"]) for found in every)
        active = Active(channels, threshold, float(mean), float(np.sqrt(var)), lowest, highest, float(above))
    if "depthwise" in of_batches[0]:
        depthwise = np.sqrt(np.maximum(joined("depthwise")[1], 0))
    if "bottleneck" in of_batches[0]:
        bottleneck = joined("bottleneck")[1]
    return Block(active, depthwise, bottleneck)


def ranks(covariance_CC: np.ndarray) -> tuple[float, float]:
    """Effective ranks of features, up to C, by the eigenvalues of their covariance as shares p of their sum.

    Returns the participation ratio 1 / sum p^2, and exp of the entropy of p (Roy and Vetterli 2007); 0 and 0 for
    features that do not vary.
    """
    eigenvalues_C = np.maximum(np.linalg.eigvalsh(covariance_CC), 0)
    if not eigenvalues_C.any():
        return 0.0, 0.0
    p = eigenvalues_C[eigenvalues_C > 0] / eigenvalues_C.sum()
    return float(1 / np.sum(np.square(p))), float(np.exp(-np.sum(p * np.log(p))))
