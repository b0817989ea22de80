"""What every strategy promises, held by each of these; the slowest checks by the first of them."""

from tlsearch.testing import StrategyContract


class TestLPFT(StrategyContract):
    strategy = "lp_ft"
    # Its gentle default suits networks that have learned much; the contract's tiny ones have not.
    params = {"learning_rate": 1e-3}


class TestGradualUnfreezing(StrategyContract):
    strategy = "gradual_unfreezing"
    test_reloads_in_another_process = None
    test_same_seed_same_model = None


class TestSurgical(StrategyContract):
    strategy = "surgical"
    test_reloads_in_another_process = None
    test_same_seed_same_model = None
