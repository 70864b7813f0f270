"""MobileNetV2's Figure 1: which points of a 2-D spiral collapse when ReLU acts on it in n dimensions?

Claim: "n = 2, 3 result in information loss where certain points of the manifold collapse into each other,
while for n = 15 to 30 the transformation is highly non-convex" (Sandler et al. 2018, caption of Figure 1,
which draws one random embedding for each n and has no numbers).

    python -m mnet_jax.main --config experiments/manifold_spiral.py        # trains nothing: 10 seconds

The metric is the share of collapsed points, those with fewer than two active units. It is what the caption
speaks of, and its mean over all embeddings is known: (n + 1) / 2^n. The error of the best affine read-out
stands in the rows, too, but it also counts points that are folded and still told apart.

Measured, 100 embeddings, means and 95 % t-intervals:

    n     collapsed           exact     error of the best affine read-out
    2     .771 [.742, .799]   .75       .594 [.580, .608]
    3     .500                .5        .454 [.443, .465]
    5     .183 [.157, .209]   .1875     .240 [.214, .266]
    15    0                   .0005     .0076 [.0064, .0088]
    30    0                   3e-8      .0011 [.0009, .0012]

At n = 3 it is one half for every embedding: of a point and its opposite, exactly one keeps two active units
or more. The trend and the difference of n = 3 and 15 are supported.
"""

from mnet_jax import config

DIMS = (2, 3, 5, 15, 30)
ARMS = tuple(f"dim={dim}" for dim in DIMS)


def get_config(scale="digits"):
    if scale != "digits":
        raise ValueError(f"scale {scale!r}: the spiral needs no data; allowed: 'digits', the default")
    cfg = config.default()
    cfg.task = "spiral"
    cfg.seeds = cfg.runs_per_job = 100
    return cfg


def sweep(cfg):
    for dim in DIMS:
        yield {"spiral.dim": dim}


claim = {
    "text": "The fewer the dimensions that ReLU acts in, the more points of a spiral collapse.",
    "source": "Sandler et al. 2018, Figure 1",
    "asked_by": "paper",
    "published": "drawings only: information loss at n = 2 and 3, a highly non-convex map at 15 to 30",
    "metric": "collapsed",
    "contrasts": (config.trend(ARMS, DIMS, sign=-1), config.greater("dim=3", "dim=15")),
}
