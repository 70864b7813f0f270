"""What the sweeps of experiment files are written with."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from mnet_jax.config.claims import trend
from mnet_jax.errors import UserError
from mnet_jax.fields import nearest
from mnet_jax.models.specs import NETWORKS

Rate = float | tuple[float, str]
"""A tuned learning rate, or (rate, "edge") where it was the lowest or the highest that was tried."""


def tuned(
    arms: Mapping[str, Mapping[str, Any]], rates: Mapping[str, Mapping[str, Rate] | float], config: ConfigDict
) -> Iterator[dict[str, Any]]:
    """Yields the sweep rows of named arms, each at its learning rate in `rates[scale]`, or else at the config's.

    A number in the place of the arms' rates is that of all; a pair (rate, "edge") says that no rate beyond was tried.
    """
    of_scale = rates.get(config.scale, {})
    if isinstance(of_scale, Mapping):
        for name in of_scale:
            if name not in arms:
                raise UserError(
                    f"a learning rate for arm {name!r}{nearest(name, arms)}; the arms are {', '.join(arms)}"
                )
    for name, overrides in arms.items():
        lr = of_scale.get(name, config.optim.lr) if isinstance(of_scale, Mapping) else of_scale
        lr, *edge = lr if isinstance(lr, tuple) else (lr,)
        if edge not in ([], ["edge"]):
            raise UserError(
                f"the learning rate of arm {name!r} is {(lr, *edge)!r}; allowed: a number, or (number, 'edge')"
            )
        yield {"name": name, **overrides, "optim.lr": lr, "lr_at_edge": bool(edge)}


def at_resolution(config: ConfigDict, pixels: int) -> dict[str, int]:
    """The override that makes the images `pixels` high and wide: crops of large ones, small ones resized."""
    return {"data.size" if config.data.size else "data.resolution": pixels}


def multipliers(
    config: ConfigDict, widths: Sequence[float], resolutions: Sequence[int]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Arms "width@resolution" of every pair, both ascending, and what a claim says of them.

    Images are shifted by the same share of their side as at the highest resolution, to whole pixels. The claim's trends
    are those of width at the highest resolution and of resolution at the largest width, each against 2 log2 of it:
    multiply-adds go with the square of either (Howard et al. 2017, equation 7), so that a slope is in points for each
    doubling of them. Its curve is a line for each resolution.
    """
    shifts = {
        pixels: {"data.shift": round(config.data.shift * pixels / resolutions[-1])} if config.data.shift else {}
        for pixels in resolutions
    }
    arms = {
        f"{width:g}@{pixels}": {"model.width": width, **at_resolution(config, pixels), **shifts[pixels]}
        for pixels in reversed(resolutions)
        for width in reversed(widths)
    }
    by_resolution = {pixels: [f"{width:g}@{pixels}" for width in widths] for pixels in resolutions}
    by_width = [f"{widths[-1]:g}@{pixels}" for pixels in resolutions]
    contrasts = (
        trend(*at_highest(widths, resolutions)),
        trend(by_width, [2 * math.log2(pixels) for pixels in resolutions]),
    )
    series = {f"resolution {pixels}": members for pixels, members in by_resolution.items()}
    return arms, {"contrasts": contrasts, "curve": {"x": "madds", "points": {}, "series": series}}


def at_highest(widths: Sequence[float], resolutions: Sequence[int]) -> tuple[list[str], list[float]]:
    """The arms of `multipliers` at the highest resolution, by width, and 2 log2 of their widths."""
    return [f"{width:g}@{resolutions[-1]}" for width in widths], [2 * math.log2(width) for width in widths]


def rows(config: ConfigDict) -> tuple[tuple[Any, ...], ...]:
    """The rows of the named network, to make `model.blocks` from."""
    return NETWORKS[config.model.name].blocks
