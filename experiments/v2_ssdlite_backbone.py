"""V1 against V2 under SSDLite: does V2's advantage hold in a detector?

Claim: V2 finds as much as V1 at .6 of the multiply-adds: 22.1 against 22.2 % COCO mAP with .8 and 1.3 B (Sandler et al.
2018, section 6.2 and Table 6, one run each). At equal cost V2 should then find more.

    python -m mnet_jax.main --config experiments/v2_ssdlite_backbone.py     # 15 runs

The V1 here has the strides of the V2, so that both heads are on maps of the same sizes; it costs as much as `v2`, and
`v2,thin` costs .6 of it.

Measured: nothing yet.
"""

from mnet_jax import config

V1 = {"model.name": "c13", "model.blocks": ((16, 1, 1), (32, 2, 2), (64, 4, 1), (80, 2, 2))}


def get_config(scale="scenes"):
    return config.at_scale(scale, only=("scenes",), task="detection")


def sweep(cfg):
    yield {"name": "v1", **V1}
    yield {"name": "v2"}
    yield {"name": "v2,thin", "model.width": 0.65}


claim = {
    "text": "Under SSDLite, V2 finds as much as V1 at .6 of the cost, and more at the same.",
    "source": "Sandler et al. 2018, section 6.2 and Table 6",
    "asked_by": "paper",
    "published": "COCO mAP 22.1 % (V2, .8 B multiply-adds) against 22.2 % (V1, 1.3 B), one run each",
    "metric": "coco_map",
    "contrasts": (
        config.equivalent("v2,thin", "v1", margin=2.0, published=-0.1),
        config.greater("v2", "v1", asked_by="ours"),
    ),
    "equal_madds": (("v1", "v2"),),
}
