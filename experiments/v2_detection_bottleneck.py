"""Linear against rectified bottlenecks inside a detector: does V2's Figure 6a hold for boxes?

Claim: a ReLU6 in the narrow layers loses information, so linear ones are more accurate (Sandler et al. 2018, section
6.2 and Figure 6a: 71.05 against 70.43 % ImageNet top-1, one run each); the paper does not try it in a detector.

    python -m mnet_jax.main --config experiments/v2_detection_bottleneck.py    # 10 runs, 13 minutes on 2 cores

Measured (scenes, 5 seeds, one rate for both arms, not tuned), within that budget: supported; linear has 67.27 % mAP and
exceeds relu6 by 10.91 points [9.06, 12.76], p < 0.0001.
"""

from mnet_jax import config


def get_config(scale="scenes"):
    return config.at_scale(scale, task="detection")


def sweep(cfg):
    for act in ("linear", "relu6"):
        yield {"model.project_act": act}


claim = {
    "text": "A detector with linear bottlenecks finds more than one with ReLU6 in them.",
    "source": "Sandler et al. 2018, Figure 6a",
    "asked_by": "ours",
    "published": "71.05 against 70.43 % ImageNet top-1, one run each; nothing on boxes",
    "metric": "coco_map",
    "contrasts": (config.greater("linear", "relu6"),),
}
