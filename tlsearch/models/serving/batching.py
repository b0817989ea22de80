"""Images of requests that come at the same time, as one batch through the network."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlsearch.errors import DataError
from tlsearch.images import array_files
from tlsearch.images.decoding import FORMATS
from tlsearch.models.model import Model
from tlsearch.models.serving.limits import Limits

Told = Mapping[str, Any]
"""A prediction, as JSON holds it."""
Waiting = tuple[NDArray[Any], "asyncio.Future[Told]"]


class Batcher:
    """Decodes on several threads and predicts on one; `start` it inside the event loop, then `close` it."""

    def __init__(self, model: Model, limits: Limits) -> None:
        self.model = model
        self.limits = limits
        self.batches = 0
        self.images = 0
        self._load = 0.0
        self._headers = ThreadPoolExecutor(1, thread_name_prefix="headers")
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
        self._headers.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._network.shutdown(wait=True)

    async def predict(self, contents: Sequence[bytes]) -> list[Told]:
        """Predictions of the contents of image files.

        All headers are read before anything is decoded. Images are decoded a few of a request at a time, so
        that those of later requests come in between.

        Raises:
            Unreadable: one of them is no picture that can be decoded, or has too many pixels.
            TooMuch: together they have too many pixels.
            Busy: as much is being answered as may be at once.
        """
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._headers, lambda: [_pixels(content) for content in contents])
        for number, (width, height) in enumerate(pixels):
            if width * height > self.limits.pixels:
                sentence = f"has {width} x {height} pixels; at most {self.limits.pixels} are taken"
                raise Unreadable(number, DataError(sentence))
        total = sum(width * height for width, height in pixels)
        if total > self.limits.all_pixels:
            raise TooMuch(total)
        with self._admitted(max(sum(map(len, contents)) / self.limits.bytes, total / self.limits.all_pixels)):
            images = await self._decode_all(contents)
            futures = [loop.create_future() for _ in images]
            for image, future in zip(images, futures, strict=True):
                self._waiting.put_nowait((image, future))
            return await asyncio.gather(*futures)

    @contextlib.contextmanager
    def _admitted(self, load: float) -> Iterator[None]:
        """Hold a share of what may be answered at once; ``load`` is 1 for the largest request taken."""
        if self._load + load > self.limits.at_once:
            raise Busy
        self._load += load
        try:
            yield
        finally:
            self._load -= load

    async def _decode_all(self, contents: Sequence[bytes]) -> list[NDArray[Any]]:
        loop = asyncio.get_running_loop()
        places = asyncio.Semaphore(self.limits.decoders)
        broken = asyncio.Event()

        async def one(number: int, content: bytes) -> NDArray[Any] | None:
            async with places:
                if broken.is_set():  # the request is refused: the rest needn't be decoded
                    return None
                try:
                    return await loop.run_in_executor(self._decoders, self._decode, content)
                except Exception as error:
                    broken.set()
                    raise Unreadable(number, error) from error

        results = await asyncio.gather(
            *(one(number, content) for number, content in enumerate(contents)), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if isinstance(result, np.ndarray)]

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
                told = await loop.run_in_executor(self._network, self._forward, images)
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
            for (_, future), one in zip(batch, told, strict=True):
                if not future.done():  # its request may have gone away
                    future.set_result(one)

    def _decode(self, content: bytes) -> NDArray[Any]:
        if not content:
            raise DataError("is empty (0 bytes)")
        return self.model.encode(content)

    def _forward(self, images: NDArray[Any]) -> list[Told]:
        return self.model.told(self.model.forward(images, self.model.look))


def _pixels(content: bytes) -> tuple[int, int]:
    """Width and height as the header tells them; 0, 0 where there is none: the decoder says what it is."""
    kind = array_files.kind_of(content[: array_files.HEAD])
    with contextlib.suppress(array_files.Unreadable):
        if kind:
            found = array_files.header(io.BytesIO(content), kind)
            return found.width, found.height
    with contextlib.suppress(Exception), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return image.size
    return 0, 0


class Busy(Exception):
    """As much is being answered as may be at once."""


class TooMuch(Exception):
    """The images of a request have too many pixels together.

    Attributes:
        pixels: how many.
    """

    def __init__(self, pixels: int) -> None:
        super().__init__(f"{pixels} pixels")
        self.pixels = pixels


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
