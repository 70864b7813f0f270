"""Linear against rectified bottlenecks under a segmentation head: does V2's Figure 6a hold for masks?

Claim: a ReLU6 in the narrow layers loses information, so linear ones are more accurate (Sandler et al. 2018, section
6.2 and Figure 6a: 71.05 against 70.43 % ImageNet top-1, one run each); the paper does not try it on masks.

    python -m mnet_jax.main --config experiments/v2_segmentation_bottleneck.py    # 10 runs, about 8 minutes on 2 cores

Measured (scenes, 5 seeds, one rate for both arms, not tuned), within that budget: supported; linear has 71.28 % mean
IOU and exceeds relu6 by 2.77 points [1.88, 3.66], p = 0.00099.
"""

from mnet_jax import config


def get_config(scale="scenes"):
    return config.at_scale(scale, task="segmentation")


def sweep(cfg):
    for act in ("linear", "relu6"):
        yield {"model.project_act": act}


claim = {
    "text": "A linear bottleneck segments better than one with ReLU6.",
    "source": "Sandler et al. 2018, Figure 6a",
    "asked_by": "ours",
    "published": "71.05 against 70.43 % ImageNet top-1, one run each; nothing on masks",
    "metric": "mean_iou",
    "contrasts": (config.greater("linear", "relu6"),),
}
