"""Which bottleneck orders digits by their value? A task of its own: one output, scored by a rank correlation.

Claim: for tests of the interface of tasks, whose metric needs every image's prediction (Spearman 1904).
"""

import jax.numpy as jnp
from scipy.stats import spearmanr
from tiny import OVERRIDES

from mnet_jax import config


def loss(outputs, targets, cfg, teacher):
    error_B = outputs[:, 0] - targets["labels"] / 9
    return cfg.ranking.scale * jnp.mean(error_B**2), {"error": jnp.sum(jnp.abs(error_B))}


def score(sums, kept, cfg):
    return {"correlation": float(spearmanr(kept["predicted"], kept["label"]).statistic)}


task = config.Task(
    name="ranking",
    metrics=lambda cfg: (config.Metric("correlation", "rank correlation", decimals=3, diverged=0.0),),
    fields={"ranking.scale": config.Field(1.0, "factor of the loss", config.POSITIVE)},
    loss=loss,
    per_image=lambda outputs, targets, cfg: {"predicted": outputs[:, 0], "label": targets["labels"]},
    score=score,
)


def get_config(scale):
    cfg = config.at_scale(scale)
    config.override(cfg, OVERRIDES | {"task": "ranking", "model.num_classes": 2, "optim.lr": 0.05})
    return cfg


def sweep(cfg):
    for act in ("linear", "relu6"):
        yield {"model.project_act": act}


claim = {"contrasts": (config.greater("linear", "relu6"),)}
