"""Many runs in one program."""

import pytest
from test_bench import QUICK, REGIMES

from mnet_jax.bench import depthwise, seeds, step


@pytest.mark.accelerator
@pytest.mark.parametrize("way", ["auto", *step.GPU_FORMULATIONS])
def test_many_seeds_fit_one_program(way):
    if way not in ("auto", *depthwise.formulations("float32")):
        pytest.skip(f"no {way} here")
    regimes = {name: regime._replace(model={**regime.model, "formulation": way}) for name, regime in REGIMES.items()}
    (result,) = seeds.measure(QUICK, regimes, (1, 4))
    assert all(float(row[4]) > 0 for row in result.tables[0].rows)
