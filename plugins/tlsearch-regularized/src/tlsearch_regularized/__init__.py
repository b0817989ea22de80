"""Fine-tuning held to what it started from: L2-SP, BSS and DELTA."""

from tlsearch_regularized.bss import BSS
from tlsearch_regularized.delta import DELTA
from tlsearch_regularized.l2_sp import L2SP

__all__ = ["BSS", "DELTA", "L2SP"]
