"""A trial's state on disk while it runs, so that a trial whose worker or node dies goes on elsewhere.

The last two are kept, each a safetensors file whose name holds its checksum: one that is truncated or changed
is passed over for the one before. They are deleted when the trial ends, by whoever drives the study.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from tlsearch import artifacts
from tlsearch.training.resume import FitState

FORMAT = "1"
FOLDER = "checkpoints"
SECONDS = 3.0
"""Training that may be lost for the sake of speed: longer epochs are always followed by a write."""
SHARE = 0.5
"""Of training time that writing beside it may take, where that loses less than `SECONDS` of training."""
KEPT = 2

_NAME = re.compile(r"e(?P<epoch>\d+)-a(?P<attempt>\d+)-(?P<sha256>[0-9a-f]{64})\.safetensors")
_LOG = logging.getLogger(__name__)


def place_of(study: str, number: int) -> str:
    """Where a trial's checkpoints lie."""
    return artifacts.join(study, FOLDER, f"{number:06d}")


def numbers(study: str) -> set[int]:
    """Of the trials that have checkpoints."""
    names = (name.partition("/")[0] for name in artifacts.listed(artifacts.join(study, FOLDER)))
    return {int(name) for name in names if name.isdecimal()}


def drop(study: str, number: int) -> None:
    """Delete a trial's checkpoints; there may be none."""
    artifacts.delete_all(place_of(study, number))


@dataclass
class Checkpoints:
    """The checkpoints of one trial, written by one attempt, read by the next.

    Attributes:
        study: place of the study's files.
        number: of the trial.
        attempt: that writes.
        identity: what the trial is; a state of another one isn't gone on from.
    """

    study: str
    number: int
    attempt: int
    identity: Mapping[str, Any]
    _stored: list[str] = field(default_factory=list)
    _beside: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "tlsearch-checkpoint"))
    _writing: Future[None] | None = None
    _seconds: float = 0.0
    _written: float = field(default_factory=lambda: time.perf_counter())

    def latest(self) -> FitState | None:
        """The newest state of earlier attempts that is whole; None where it has to begin at the beginning."""
        if self.attempt == 1:
            return None
        place = place_of(self.study, self.number)
        named = [match for match in map(_NAME.fullmatch, artifacts.listed(place)) if match]
        found = [match for match in named if int(match["attempt"]) < self.attempt]
        found.sort(key=lambda match: (int(match["epoch"]), int(match["attempt"])))
        stored = [artifacts.join(place, match.string) for match in found]
        for position in reversed(range(len(found))):
            try:
                content = artifacts.read(stored[position], sha256=found[position]["sha256"])
                state = self._decoded(content)
            except (OSError, SafetensorError, ValueError, KeyError) as error:
                _LOG.warning("trial %d: %s", self.number, error)
                continue
            self._stored = stored[position + 1 :] + stored[: position + 1]  # the useless go first
            self._written = time.perf_counter()
            return state
        self._stored = stored
        return None

    def offer(self, snapshot: Callable[[], FitState | None]) -> None:
        """Store the state beside the training that follows.

        Not while the one before is still being written, nor where so little training would be lost otherwise
        that it isn't worth a write. Those before the last one are deleted. Where writing fails, training
        goes on.
        """
        if self._writing is not None and not self._writing.done():
            return
        if time.perf_counter() - self._written < min(SECONDS, self._seconds / SHARE):
            return
        state = snapshot()
        if state is not None:
            # Encoding copies the tensors, which training goes on changing.
            self._writing = self._beside.submit(self._write, state.epoch, self._encoded(state))

    def close(self) -> None:
        """Wait until nothing is being written any more."""
        self._beside.shutdown()
        if self._writing is not None:
            self._writing.result()

    def _write(self, epoch: int, content: bytes) -> None:
        began = time.perf_counter()
        name = f"e{epoch:04d}-a{self.attempt:02d}.safetensors"
        path = artifacts.join(place_of(self.study, self.number), name)
        try:
            written = artifacts.put(path, lambda draft: draft.write_bytes(content), mark=True)
            self._stored.append(written.uri)
            while len(self._stored) > KEPT:
                artifacts.delete(self._stored.pop(0))
        except OSError as error:
            # The disk may have room again for the next one, or for the trial's weights.
            _LOG.warning("trial %d: no checkpoint of epoch %d: %s", self.number, epoch, error)
        self._written = time.perf_counter()
        self._seconds = self._written - began

    def _encoded(self, state: FitState) -> bytes:
        facts = {"identity": self.identity, "epoch": state.epoch, "facts": state.facts}
        return save(dict(state.tensors), {"format": FORMAT, "state": json.dumps(facts)})

    def _decoded(self, content: bytes) -> FitState:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        if header["format"] != FORMAT:
            raise ValueError(f"a checkpoint of format {header['format']}")
        known = json.loads(header["state"])
        if known["identity"] != json.loads(json.dumps(self.identity)):
            raise ValueError("a checkpoint of another trial")
        return FitState(known["epoch"], load(content), known["facts"])
