"""Fine-tuning that the source network's answers teach, too: Co-Tuning and knowledge distillation."""

from tlsearch_cotuning.co_tuning import CoTuning
from tlsearch_cotuning.distillation import Distillation

__all__ = ["CoTuning", "Distillation"]
