"""What every strategy promises, held by each of these; the slowest checks by the first of them."""

from tlsearch.testing import StrategyContract


class TestLoRA(StrategyContract):
    strategy = "lora"


class TestDoRA(StrategyContract):
    strategy = "dora"
    test_reloads_in_another_process = None
    test_same_seed_same_model = None
