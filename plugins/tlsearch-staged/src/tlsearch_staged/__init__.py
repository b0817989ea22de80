"""Fine-tuning in stages or in parts: LP-FT, gradual unfreezing, surgical fine-tuning."""

from tlsearch_staged.gradual_unfreezing import GradualUnfreezing
from tlsearch_staged.lp_ft import LPFT
from tlsearch_staged.surgical import Surgical

__all__ = ["LPFT", "GradualUnfreezing", "Surgical"]
