"""Averages of finished models' weights, chosen on validation: WiSE-FT and greedy soups."""

from tlsearch_averaging.greedy_soup import GreedySoup
from tlsearch_averaging.wise_ft import WiSEFT

__all__ = ["GreedySoup", "WiSEFT"]
