"""Strategies at a steady pace, and strategies that do what they must not, installed as any plugin is."""

from __future__ import annotations

import contextlib
import os
import time

import torch
from optuna.distributions import CategoricalDistribution, IntDistribution
from torch import Tensor

from tlsearch.contracts import Backbone, BackboneInfo, FineTuning, Space
from tlsearch.records import Params

PACE = 0.2
"""Seconds that an epoch takes at least."""


class Paced(FineTuning):
    """Fine-tuning whose epochs take long enough for something to happen in them."""

    def on_epoch(self, model: Backbone, epoch: int, epochs: int, params: Params) -> None:
        time.sleep(float(os.environ.get("CHAOS_PACE", PACE)))


class SlowStart(FineTuning):
    """Its first epoch takes far longer than the others: data must be fetched, kernels compiled."""

    def space(self, backbone: BackboneInfo) -> Space:
        return {**super().space(backbone), "batch_size": IntDistribution(4, 4)}

    def default(self, backbone: BackboneInfo) -> Params:
        return {**super().default(backbone), "batch_size": 4}

    def loss(self, model, batch, params):
        if batch.epoch == 1:
            time.sleep(float(os.environ["CHAOS_BATCH"]))
        return super().loss(model, batch, params)


class Deaf(FineTuning):
    """Hangs in the second epoch of every trial but the first, and hears no exception that is sent to it."""

    def loss(self, model, batch, params):
        until = time.monotonic() + float(os.environ["CHAOS_DEAF"])
        while batch.epoch > 1 and params["number"] != "first" and time.monotonic() < until:
            with contextlib.suppress(BaseException):
                time.sleep(0.5)
        return super().loss(model, batch, params)

    def space(self, backbone: BackboneInfo) -> Space:
        return {**super().space(backbone), "number": CategoricalDistribution(["first", "other"])}

    def default(self, backbone: BackboneInfo) -> Params:
        return {**super().default(backbone), "number": "first"}

    def starts(self, backbone: BackboneInfo):
        return [self.default(backbone), {**self.default(backbone), "number": "other"}]


class Hungry(Paced):
    """Asks for more memory than there is: always, or for more than so many items at a time."""

    def space(self, backbone: BackboneInfo) -> Space:
        kinds = ["modest", "whole_batches", "always", "python"]
        return {**super().space(backbone), "appetite": CategoricalDistribution(kinds)}

    def default(self, backbone: BackboneInfo) -> Params:
        return {**super().default(backbone), "appetite": "modest"}

    def starts(self, backbone: BackboneInfo):
        default = self.default(backbone)
        return [{**default, "appetite": kind} for kind in ("modest", "always", "whole_batches", "python")]

    def loss(self, model, batch, params):
        appetite = params["appetite"]
        if appetite == "always" or (appetite == "whole_batches" and len(batch.targets) > 8):
            torch.empty(2**60, dtype=torch.uint8)  # the allocator refuses: no machine has an exabyte
        if appetite == "python":
            bytearray(2**60)
        return super().loss(model, batch, params)


class Broken(Paced):
    """Its weights stop being numbers in the third epoch."""

    def space(self, backbone: BackboneInfo) -> Space:
        return {**super().space(backbone), "poison": CategoricalDistribution(["none", "nan", "inf"])}

    def default(self, backbone: BackboneInfo) -> Params:
        return {**super().default(backbone), "poison": "none"}

    def starts(self, backbone: BackboneInfo):
        default = self.default(backbone)
        return [{**default, "poison": kind} for kind in ("nan", "none", "inf")]

    def loss(self, model, batch, params) -> Tensor:
        loss = super().loss(model, batch, params)
        if batch.epoch > 2 and params["poison"] != "none":
            return loss * float(params["poison"])
        return loss
