"""Features of all items of a study's data from a frozen backbone: those that heads are fitted to, stored."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tlsearch.contracts import Backbone
from tlsearch.training.batch_source import Counts
from tlsearch.training.data import Data
from tlsearch.training.head_trials import OpenHead, whole
from tlsearch.training.split_point import find_split_point
from tlsearch.training.workspace import Workspace


def all_features(workspace: Workspace, backbone: str) -> tuple[Data, Tensor]:
    """The target data, and features (N, width) of its items, not augmented; rows of broken items are 0.

    Those of test items are computed and not stored, as nothing of a search may rest on them.
    """
    pretrained = workspace.backbone(backbone)
    data = workspace.data("data", pretrained.info.inputs)
    model = Backbone(pretrained, data.task, data.target_spec)
    model.freeze(1.0)
    model.head = OpenHead()
    placed: Backbone = model.to(device=workspace.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    split_point = find_split_point(placed, workspace.example(pretrained))
    feed = workspace.feed(data, pretrained, split_point, "none", Counts(), lambda: placed)
    found = torch.zeros(len(data.array), model.width)
    for split, indices in data.indices.items():
        if len(indices):
            found[torch.from_numpy(np.asarray(indices))] = whole(feed, split, 0).cpu()
    return data, found
