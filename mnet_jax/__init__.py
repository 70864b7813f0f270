"""An ablation laboratory for MobileNets: experiment file -> plan -> train -> results -> report."""
