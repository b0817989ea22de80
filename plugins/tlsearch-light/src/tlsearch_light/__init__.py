"""Transfer in which few parameters train, or none: BitFit, norm tuning, RanPAC and Head2Toe."""

from tlsearch_light.head2toe import Head2Toe
from tlsearch_light.parts import BitFit, NormTuning
from tlsearch_light.ranpac import RanPAC

__all__ = ["BitFit", "Head2Toe", "NormTuning", "RanPAC"]
