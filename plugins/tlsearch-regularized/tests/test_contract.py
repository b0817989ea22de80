"""What every strategy promises, held by each of these; the slowest checks by the first of them."""

from tlsearch.testing import StrategyContract


class TestL2SP(StrategyContract):
    strategy = "l2_sp"


class TestBSS(StrategyContract):
    strategy = "bss"
    test_reloads_in_another_process = None
    test_same_seed_same_model = None


class TestDELTA(StrategyContract):
    strategy = "delta"
    test_reloads_in_another_process = None
    test_same_seed_same_model = None
