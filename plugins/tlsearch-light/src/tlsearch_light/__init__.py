"""Transfer in which few parameters train, or none: BitFit, norm tuning and RanPAC."""

from tlsearch_light.parts import BitFit, NormTuning
from tlsearch_light.ranpac import RanPAC

__all__ = ["BitFit", "NormTuning", "RanPAC"]
