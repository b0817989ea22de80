"""Greedy soup: the mean of those finished models that help each other."""

from __future__ import annotations

from tlsearch.contracts import Combination, CombinationTask, Combined
from tlsearch_averaging.mixing import mixed


class GreedySoup(Combination):
    """From the best member on, each is added if the mean gets better by it (Wortsman et al. 2022, recipe 1).

    arXiv:2203.05482.
    """

    def combine(self, task: CombinationTask) -> Combined | None:
        """The soup; None where nothing goes with the best member."""
        first, *others = task.members
        soup, members = first.state(), [first.number]
        best = task.score(soup)
        for member in others:
            # Running mean of all that are in: the newcomer counts as much as each of them.
            tasted = mixed(soup, member.state(), 1 / (len(members) + 1))
            score = task.score(tasted)
            if score > best:
                soup, best = tasted, score
                members.append(member.number)
        return Combined(soup, tuple(members)) if len(members) > 1 else None
