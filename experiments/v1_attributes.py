"""Can a small network take over a large one's answers to many yes or no questions?

Claim: a MobileNet that learns a large attribute classifier's probabilities in place of the labels needs no
regularization and reaches the teacher's mean AP or more at a fraction of its cost (Howard et al. 2017, section 4.5 and
Table 12: 88.7 % at width 1, 88.1 at 0.5 and 87.2 at 0.25, 86.9 of the teacher).

    python -m mnet_jax.main --config experiments/v1_attributes.py    # 50 runs

Scenes stand for faces and "holds a k" for the attributes: real digits on photographs. The teacher has 1.5 times the
scale's width and learns from the labels; students learn from the same scenes' labels ("labels@width"), or from its
probabilities alone ("taught@width", and "no_decay" without weight decay). The paper's students saw more images than
there are labels. Here that is apart: "few_labels" and "few_taught" see a sixth of the scenes, for as many updates, so
that "taught@0.25" is "few_taught" with six times as many scenes whose labels it does not need.

Measured: nothing yet.
"""

from mnet_jax import config

WIDTHS = (1.0, 0.5, 0.25)
FEWER = 6
TUNED_LR: dict[str, dict[str, float]] = {}


def get_config(scale="scenes"):
    cfg = config.at_scale(scale, "v1", task="attributes")
    cfg.distill.weight = 1.0
    return cfg


def sweep(cfg):
    small, taught = {"model.width": WIDTHS[-1]}, {"train.teacher": "teacher"}
    few = {**small, "data.train_size": 3000 // FEWER, "train.epochs": cfg.train.epochs * FEWER}
    few["train.eval_every"] = cfg.train.eval_every * FEWER
    arms: dict[str, dict] = {f"labels@{width:g}": {"model.width": width} for width in WIDTHS}
    arms |= {f"taught@{width:g}": {"model.width": width, **taught} for width in WIDTHS}
    arms |= {
        "no_decay": {**small, **taught, "optim.weight_decay": 0.0},
        "few_labels": few,
        "few_taught": {**few, **taught},
        "teacher": {"model.width": 1.5},
    }
    return config.tuned(arms, TUNED_LR, cfg)


claim = {
    "text": "A small network learns a large one's answers better than the labels, without weight decay.",
    "source": "Howard et al. 2017, section 4.5 and Table 12",
    "asked_by": "paper",
    "published": "mean AP 88.7, 88.1 and 87.2 % at widths 1, 0.5 and 0.25, 86.9 % of the teacher; one run each",
    "metric": "mean_ap",
    "contrasts": (
        config.greater("taught@0.25", "labels@0.25"),
        config.greater("taught@1", "teacher", published=1.8),
        config.equivalent("taught@1", "taught@0.25", margin=2.5, published=1.5),
        config.equivalent("no_decay", "taught@0.25", margin=2.0),
        config.greater("taught@0.25", "few_taught", asked_by="ours"),
        config.greater("few_taught", "few_labels", asked_by="ours"),
    ),
    "curve": {
        "x": "madds",
        "points": {},
        "series": {name: [f"{name}@{width:g}" for width in WIDTHS] for name in ("labels", "taught")},
    },
}
