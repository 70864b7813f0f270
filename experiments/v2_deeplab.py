"""Mobile DeepLabv3 in parts: what do output stride, ASPP, the map below the head and the evaluation change?

Claim: on VOC 2012, of 75.32 % mean IOU at output stride 16 without ASPP, ASPP adds .38 points at twice the
multiply-adds, and an evaluation at output stride 8, at six scales and mirrored, adds 2.01 at 55 times (Sandler et al.
2018, section 6.3 and Table 7, one run each); the head is on the last block's map instead of the wider one behind it.

    python -m mnet_jax.main --config experiments/v2_deeplab.py         # 30 runs
    python -m mnet_jax.main --config experiments/v2_deeplab.py:voc     # 18 runs: VOC 2012 in MNET_DATA_DIR/voc

Scenes of digits, 64x64: output stride 8 stands for the paper's 16, and 4 for its 8; ASPP's rates are as large beside
the map as the paper's.

Measured: nothing yet.
"""

from mnet_jax import config

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def get_config(scale="scenes"):
    return config.at_scale(scale, task="segmentation")


def sweep(cfg):
    half = cfg.model.output_stride // 2
    yield {"name": "reduced"}
    yield {"name": "half_stride", "model.output_stride": half}
    yield {"name": "half_stride,not_atrous", "model.output_stride": half, "model.atrous": False}
    yield {"name": "aspp", "segmentation.head": "aspp"}
    yield {"name": "head_on_last", "segmentation.input": "last"}
    yield {"name": "scales", "segmentation.scales": SCALES, "segmentation.mirror": True}


claim = {
    "text": "A smaller output stride by atrous convolutions and several scales help; ASPP and a wider map hardly do.",
    "source": "Sandler et al. 2018, section 6.3 and Table 7",
    "asked_by": "paper",
    "published": "VOC 2012: 75.32 %; 75.70 with ASPP; 77.33 at output stride 8, six scales and mirrored; one run each",
    "metric": "mean_iou",
    "contrasts": (
        config.greater("half_stride", "reduced"),
        config.greater("half_stride", "half_stride,not_atrous", asked_by="ours"),
        config.equivalent("aspp", "reduced", margin=2.0, published=0.38),
        config.equivalent("head_on_last", "reduced", margin=2.0),
        config.greater("scales", "reduced"),
    ),
}
