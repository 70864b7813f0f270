"""What a network costs: multiply-adds, parameters and memory, counted from the traced network itself.

There is no second formula that could drift. For a reader who thinks in formulas, those of Howard et al. 2017 (the V1
paper, section 3) with D_K the kernel's size, D_F the feature map's, M input and N output channels:

    (2)  D_K D_K M N D_F D_F                            a full convolution
    (4)  D_K D_K M D_F D_F                              a depthwise convolution
    (5)  D_K D_K M D_F D_F + M N D_F D_F                a depthwise separable one: depthwise, then 1x1
         1/N + 1/D_K^2                                  (5) over (2): eight to nine times fewer for 3x3 kernels
    (6)  D_K D_K aM D_F D_F + aM aN D_F D_F             (5) with the width multiplier a
    (7)  D_K D_K aM rD_F rD_F + aM aN rD_F rD_F         (6) with the resolution multiplier r

The paper's D_F is the size of the output, zero padding counts as any other pixel, and only kernels count: no bias,
norm, activation or addition. `tests/test_cost.py` holds the counter to these equations over random layers.
"""

from mnet_jax.cost.count import Cost, count
from mnet_jax.cost.walk import Layer

__all__ = ["Cost", "Layer", "count"]
