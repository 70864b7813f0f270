"""Can a small network take over a large one's answers to many yes or no questions?

Claim: a MobileNet that learns a large attribute classifier's probabilities in place of the labels needs no
regularization and reaches the teacher's mean AP or more at a fraction of its cost (Howard et al. 2017, section 4.5 and
Table 12: 88.7 % at width 1, 88.1 at 0.5 and 87.2 at 0.25, 86.9 of the teacher).

    python -m mnet_jax.main --config experiments/v1_attributes.py    # 55 runs

Scenes stand for faces, 32x32, and "holds a k" for the attributes: real digits on photographs. The teacher has twice the
scale's width and learns from the labels of 500 scenes; students learn from the same labels ("labels@width"), from its
probabilities on the same scenes alone ("taught@width"), or on five times as many, whose labels nobody needs
("more@width", for as many updates). "taught,no_decay@0.25" learns without weight decay. The paper's students saw more
images than labels; here that is an arm of its own, so that the two are not mixed up.

Measured: nothing yet.
"""

from mnet_jax import config

WIDTHS = (1.0, 0.5, 0.25)
MORE = 5
TUNED_LR: dict[str, dict[str, float]] = {}


def get_config(scale="scenes"):
    cfg = config.at_scale(scale, "v1", task="attributes")
    cfg.distill.weight = 1.0
    return cfg


def sweep(cfg):
    taught = {"train.teacher": "teacher"}
    more = {"data.train_size": MORE * cfg.data.train_size, "train.epochs": cfg.train.epochs // MORE}
    arms: dict[str, dict] = {}
    for width in WIDTHS:
        arms[f"labels@{width:g}"] = {"model.width": width}
        arms[f"taught@{width:g}"] = {"model.width": width, **taught}
        arms[f"more@{width:g}"] = {"model.width": width, **taught, **more}
    arms["taught,no_decay@0.25"] = {"model.width": 0.25, **taught, "optim.weight_decay": 0.0}
    arms["teacher"] = {"model.width": 2.0}
    return config.tuned(arms, TUNED_LR, cfg)


claim = {
    "text": "A small network learns a large one's answers better than the labels, without weight decay.",
    "source": "Howard et al. 2017, section 4.5 and Table 12",
    "asked_by": "paper",
    "published": "mean AP 88.7, 88.1 and 87.2 % at widths 1, 0.5 and 0.25, 86.9 % of the teacher; one run each",
    "metric": "mean_ap",
    "contrasts": (
        config.greater("taught@0.25", "labels@0.25"),
        config.greater("more@0.25", "taught@0.25", asked_by="ours"),
        config.greater("more@1", "teacher", published=1.8),
        config.equivalent("more@1", "more@0.25", margin=2.5, published=1.5),
        config.equivalent("taught,no_decay@0.25", "taught@0.25", margin=2.0),
    ),
    "curve": {
        "x": "madds",
        "points": {},
        "series": {name: [f"{name}@{width:g}" for width in WIDTHS] for name in ("labels", "taught", "more")},
    },
}
