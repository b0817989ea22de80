"""WiSE-FT: between the pretrained weights and the fine-tuned ones."""

from __future__ import annotations

from tlsearch.contracts import Combination, CombinationTask, Combined
from tlsearch_averaging.mixing import mixed

ALPHAS = tuple(step / 10 for step in range(1, 10))
"""Shares of the fine-tuned weights; 1 is the member itself."""


class WiSEFT(Combination):
    """(1 - alpha) pretrained + alpha fine-tuned, alpha chosen on validation (Wortsman et al. 2022).

    arXiv:2109.01903. The trunk is interpolated; the pretrained network has no head for the target's classes,
    so the fine-tuned one's stays.
    """

    def combine(self, task: CombinationTask) -> Combined:
        """The best alpha for the best member."""
        member = task.members[0]
        tuned = member.state()
        scores = {alpha: task.score(mixed(tuned, task.source, 1 - alpha)) for alpha in ALPHAS}
        # Of equals the one nearest to what was trained.
        alpha = max(ALPHAS, key=lambda share: (scores[share], share))
        return Combined(mixed(tuned, task.source, 1 - alpha), (member.number,), {"alpha": alpha})
