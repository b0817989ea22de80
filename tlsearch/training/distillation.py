"""Knowledge distillation: a network learns from what another, its teacher, puts out for the same items.

Hinton et al. 2015 (arXiv:1503.02531). Both look at the same augmented view of an item (Beyer et al. 2022,
arXiv:2106.05237). The teacher looks once at each of a few views, of which the student sees one in each pass.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from tlsearch.contracts import Backbone, Batch, FineTuning, Forward, InputSpec, Pretrained
from tlsearch.records import Params
from tlsearch.training.batch_source import BatchSource, Counts, Indices
from tlsearch.training.data import Data
from tlsearch.training.item_sets import NOT_TEST
from tlsearch.training.split_point import SplitPoint
from tlsearch.training.workspace import Workspace

STRATEGY = "fine_tune"
"""What a student is when it is finished: a network of this strategy."""
TEMPERATURE = 4.0
LABELS = 0.1
"""Weight of the labels' own loss; the rest is the teacher's. Hinton et al. found a low one best."""
BATCH = 64
TEACHING = 0.3
"""Share of a training's time that the teacher may take to look at further views."""


class Distilling(FineTuning):
    """Fine-tuning by a teacher's outputs, which are the last of a batch's inputs, and by the labels."""

    def loss(self, model: Forward, batch: Batch, params: Params) -> Tensor:
        """The weighted sum of both losses."""
        *inputs, taught = batch.inputs
        outputs = model(tuple(inputs))
        own = batch.task.loss(outputs, batch.targets, self.recipe(params))
        return LABELS * own + (1 - LABELS) * batch.task.distillation(outputs, taught, TEMPERATURE)


@dataclass(kw_only=True)
class TaughtWorkspace(Workspace):
    """A worker's workspace in which a teacher looks at the items too.

    Attributes:
        teacher: a finished network, in eval mode.
        teacher_inputs: how items become its input.
        deadline: of the training that is under way, as `time.time` counts.
    """

    teacher: nn.Module
    teacher_inputs: InputSpec
    deadline: float = math.inf
    _told: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.teacher.to(self.device)

    def feed(
        self,
        data: Data,
        pretrained: Pretrained,
        split_point: SplitPoint,
        policy: str,
        counts: Counts,
        untrained: Callable[[], Backbone],
    ) -> BatchSource:
        """What serves the training of the student, with what the teacher says of each batch."""
        own = super().feed(data, pretrained, split_point, policy, counts, untrained)
        # The items are the same and in the same order; the teacher may take them in another size.
        seen = replace(self.data("data", self.teacher_inputs), indices=data.indices)
        takes = replace(pretrained, info=replace(pretrained.info, inputs=self.teacher_inputs))
        source = super().feed(seen, takes, split_point, policy, Counts(), untrained)
        items = np.unique(np.concatenate([data.indices[name] for name in NOT_TEST]))

        served = weakref.proxy(own)  # which holds this function

        def taught(index: Indices, view: int) -> Tensor:
            if (policy, view) not in self._told:
                began, left = time.time(), self.deadline - time.time()
                self._told[policy, view] = self._outputs(source, items, view)
                took = max(1e-6, time.time() - began)
                if math.isfinite(left):
                    served.views = max(view, min(served.views, view + int(TEACHING * left / took)))
            rows = torch.from_numpy(np.searchsorted(items, index))
            return self._told[policy, view][rows].to(self.device).float()

        own.taught = taught
        return own

    def _outputs(self, source: BatchSource, items: Indices, view: int) -> Tensor:
        """What the teacher puts out for items under a view: (N, ...) float16, on the CPU."""
        with torch.inference_mode():
            parts = [
                self.teacher(source.read(index, view)).half().cpu()
                for index in np.array_split(items, -(-len(items) // BATCH))
            ]
        # Outside: a tensor of inference mode can't take part in what is differentiated.
        return torch.cat(parts)
