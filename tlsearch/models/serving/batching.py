"""Images of requests that come at the same time, as one batch through the network."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlsearch.errors import DataError
from tlsearch.images.decoding import FORMATS
from tlsearch.models.bundle import Model
from tlsearch.models.serving.limits import Limits

Waiting = tuple[NDArray[Any], "asyncio.Future[NDArray[np.float32]]"]


class Batcher:
    """Decodes on several threads and predicts on one; `start` it inside the event loop, then `close` it."""

    def __init__(self, model: Model, limits: Limits) -> None:
        self.model = model
        self.limits = limits
        self.batches = 0
        self.images = 0
        self._decoders = ThreadPoolExecutor(limits.decoders, thread_name_prefix="decode")
        self._network = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._waiting: asyncio.Queue[Waiting] = asyncio.Queue()
        self._collector: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to collect batches."""
        self._collector = asyncio.get_running_loop().create_task(self._collect())

    async def close(self) -> None:
        """Stop; whoever still waits is told that it was cancelled."""
        if self._collector is not None:
            self._collector.cancel()
            await asyncio.gather(self._collector, return_exceptions=True)
        while not self._waiting.empty():
            self._waiting.get_nowait()[1].cancel()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._network.shutdown(wait=True)

    async def predict(self, contents: Sequence[bytes]) -> NDArray[np.float32]:
        """Probabilities (N, classes) of the contents of image files.

        Raises:
            Unreadable: one of them is no picture that can be decoded.
        """
        loop = asyncio.get_running_loop()
        decoded = [loop.run_in_executor(self._decoders, self._decode, content) for content in contents]
        results = await asyncio.gather(*decoded, return_exceptions=True)
        images = []
        for number, result in enumerate(results):
            if isinstance(result, BaseException):
                raise Unreadable(number, result)
            images.append(result)
        futures = [loop.create_future() for _ in images]
        for image, future in zip(images, futures, strict=True):
            self._waiting.put_nowait((image, future))
        return np.stack(await asyncio.gather(*futures))

    async def _collect(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            ends = loop.time() + self.limits.wait
            while len(batch) < self.limits.batch:
                try:
                    batch.append(self._waiting.get_nowait())
                except asyncio.QueueEmpty:
                    if (left := ends - loop.time()) <= 0:
                        break
                    with contextlib.suppress(TimeoutError):
                        batch.append(await asyncio.wait_for(self._waiting.get(), left))
            images = np.stack([image for image, _ in batch])
            try:
                shares = await loop.run_in_executor(self._network, self._forward, images)
            except asyncio.CancelledError:
                for _, future in batch:
                    future.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - each waiting request gets it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            self.batches += 1
            self.images += len(batch)
            for (_, future), row in zip(batch, shares, strict=True):
                if not future.done():  # its request may have gone away
                    future.set_result(row)

    def _decode(self, content: bytes) -> NDArray[Any]:
        if not content:
            raise DataError("is empty (0 bytes)")
        # Asked of the header: nothing is decoded yet. What has no readable header is refused by the decoder.
        width, height = 0, 0
        with contextlib.suppress(Exception), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
        if width * height > self.limits.pixels:
            raise DataError(f"has {width} x {height} pixels; at most {self.limits.pixels} are taken")
        return self.model.encode(content)

    def _forward(self, images: NDArray[Any]) -> NDArray[np.float32]:
        return self.model.probabilities(self.model.forward(images))


class Unreadable(Exception):
    """One of the contents can't be decoded.

    Attributes:
        number: which one, from 0.
        cause: what was raised.
    """

    def __init__(self, number: int, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.number = number
        self.cause = cause
