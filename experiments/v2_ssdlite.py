"""SSD's head, with 1x1 predictors, and SSDLite's: what do separable convolutions cost a detector, and what is left?

Claim: in place of SSD's head, SSDLite's has 2.1 M parameters for 14.8 M and a seventh of the multiply-adds (Sandler et
al. 2018, section 6.2 and Table 5), and a V2 with it reaches 22.1 % COCO mAP with .8 B multiply-adds where SSD300 has
23.2 with 35.2 B (Table 6, one run each). What the head alone changes is not printed.

    python -m mnet_jax.main --config experiments/v2_ssdlite.py          # 20 runs
    python -m mnet_jax.main --config experiments/v2_ssdlite.py:bccd     # 20 runs: blood cells in MNET_DATA_DIR/bccd
    python -m mnet_jax.main --config experiments/v2_ssdlite.py:coco --mode plan

The arm `ssdlite,wide` has its backbone widened until it costs as much as `ssd`.

Measured: nothing yet.
"""

from mnet_jax import config

WIDE = {"scenes": 1.96, "bccd": 1.25, "voc": 1.2, "coco": 1.65}
"""Width at which SSDLite has the multiply-adds of SSD at width 1."""


def get_config(scale="scenes"):
    return config.at_scale(scale, task="detection")


def sweep(cfg):
    yield {"name": "ssd", "detection.head": "ssd"}
    yield {"name": "ssd_1x1", "detection.head": "ssd_1x1"}
    yield {"name": "ssdlite"}
    yield {"name": "ssdlite,wide", "model.width": WIDE[cfg.scale]}


claim = {
    "text": "SSDLite loses little to SSD on the same network, and gains at the same cost.",
    "source": "Sandler et al. 2018, section 6.2 and Tables 5 and 6",
    "asked_by": "ours",
    "published": "COCO mAP 22.1 % (V2 with SSDLite, .8 B multiply-adds) against 23.2 % (SSD300, 35.2 B), one run each",
    "metric": "coco_map",
    "contrasts": (
        config.equivalent("ssdlite", "ssd", margin=2.0),
        config.greater("ssdlite,wide", "ssd"),
        config.equivalent("ssd_1x1", "ssd", margin=2.0),
    ),
    "equal_madds": (("ssd", "ssdlite,wide"),),
}
