"""What one client does must not keep others from their answers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from PIL import Image

from tlsearch.models.serving.batching import Batcher
from tlsearch.models.serving.limits import Limits

HALF = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


class Few(Limits):
    connections = 8


class Held:
    """A model that decodes nothing before it is let."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.go = threading.Event()
        self.decoded: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, content: bytes) -> Any:
        self.decoded.append(content)
        assert self.go.wait(60)
        return self._model.encode(content)


def png(size: int = 20, grey: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (grey, 0, 0)).save(file, "PNG")
    return file.getvalue()


def connect(url: str, sent: bytes = b"") -> socket.socket:
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname, place.port), timeout=550)
    connection.sendall(sent)
    return connection


def rest(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    connection.close()
    return b"".join(parts)


def ask(url: str, **request: Any) -> requests.Response:
    request = {"data": png(), "headers": {"Content-Type": "image/png"}, **request}
    return requests.post(f"{url}/predict", timeout=550, **request)


def test_idle_and_half_sent_requests_starve_nobody(start):
    url = start(kind=Few, head_seconds=3600)
    idle = [connect(url) for _ in range(10)]
    half = [connect(url, HALF) for _ in range(10)]
    assert requests.get(f"{url}/health", timeout=550).status_code == 200
    assert ask(url).status_code == 200
    # All that wait are as many as may: the first were closed for those that came later.
    assert [rest(one) for one in idle] == [b""] * 10
    with contextlib.suppress(ConnectionResetError):  # where what it sent wasn't even read
        assert rest(half[0]).startswith(b"HTTP/1.1 408 ")
    half[-1].sendall(b"Content-Length: 0\r\nConnection: close\r\n\r\n")
    assert rest(half[-1]).startswith(b"HTTP/1.1 422 "), "the latest is still there"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [(b"", b""), (HALF, b"HTTP/1.1 408 "), (HALF + b"Content-Length: 99\r\n\r\nabc", b"HTTP/1.1 408 ")],
    ids=["nothing", "half a head", "half a body"],
)
def test_who_does_not_end_a_request_is_told_so_and_closed(start, capfd, sent, answer):
    url = start(head_seconds=0.2, body_seconds=0.2)
    said = rest(connect(url, sent))
    assert said.startswith(answer)
    assert (b"wasn't complete in time" in said) == bool(answer)
    assert requests.get(f"{url}/health", timeout=550).status_code == 200
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (HALF, b"HTTP/1.1 400 "),
        (HALF + b"Content-Length: 99\r\n\r\nabc", b"HTTP/1.1 400 "),
        (HALF + b"Transfer-Encoding: chunked\r\n\r\n40\r\nabc", b"HTTP/1.1 400 "),
        (HALF + f"Content-Length: {len(png())}\r\n\r\n".encode() + png(), b"HTTP/1.1 200 "),
    ],
    ids=["nothing", "half a head", "half a body", "half a chunk", "a whole request"],
)
def test_who_sends_no_more_is_answered(start, capfd, sent, answer):
    url = start()
    connection = connect(url, sent)
    connection.shutdown(socket.SHUT_WR)
    said = rest(connection)
    assert said.startswith(answer)
    assert (b"ended before it was complete" in said) == (answer == b"HTTP/1.1 400 ")
    assert requests.get(f"{url}/health", timeout=550).status_code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_who_does_not_read_answers_is_closed(start):
    url = start(body_seconds=0.2)
    page = requests.get(f"{url}/docs", timeout=550).text
    script = next(part for part in page.split('"') if part.endswith(".js"))
    greedy = socket.socket()
    greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    place = urlsplit(url)
    greedy.connect((place.hostname, place.port))
    greedy.sendall(f"GET {script} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 40)
    held = True
    while held:  # it reads nothing; the server, which is in this process, lets its end go
        time.sleep(0.05)
        held = any(one.raddr == greedy.getsockname() for one in psutil.Process().net_connections())
    greedy.close()


def test_the_pixels_of_a_request_are_counted_before_any_is_decoded(start, model):
    held = Held(model)
    url = start(served=held, all_pixels=1000, pixels=900)
    answer = ask(url, headers={}, data=None, files=[("files", (f"{n}.png", png(20))) for n in range(3)])
    assert answer.status_code == 413
    assert "1200 pixels together; at most 1000" in answer.json()["detail"]
    assert held.decoded == []
    held.go.set()
    two = [("files", (f"{n}.png", png(20))) for n in range(2)]
    assert ask(url, headers={}, data=None, files=two).status_code == 200


def test_more_than_may_be_answered_at_once_is_refused_while_health_answers(start, model):
    held = Held(model)
    url = start(served=held, all_pixels=400)
    with ThreadPoolExecutor(Limits.at_once + 1) as pool:
        asked = [pool.submit(ask, url) for _ in range(Limits.at_once + 1)]
        refused = next(as_completed(asked)).result()
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        assert "try again later" in refused.json()["detail"]
        assert requests.get(f"{url}/health", timeout=550).json()["status"] == "ok"
        held.go.set()
        assert sorted(one.result().status_code for one in asked) == [200] * Limits.at_once + [503]
    assert ask(url).status_code == 200


def test_a_small_request_does_not_wait_for_all_images_of_a_large_one(model):
    held = Held(model)
    large, small = [png(20, grey) for grey in range(10)], png(20, 99)

    async def both() -> None:
        batcher = Batcher(held, Limits())
        batcher.start()
        first = asyncio.create_task(batcher.predict(large))
        while len(held.decoded) < Limits.decoders:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(batcher.predict([small]))
        while not batcher._decoders._work_queue.qsize():
            await asyncio.sleep(0.01)
        held.go.set()
        await asyncio.gather(first, second)
        await batcher.close()

    asyncio.run(both())
    assert held.decoded.index(small) == Limits.decoders
    assert sorted(held.decoded) == sorted([*large, small])


def test_a_broken_image_spares_the_rest_of_its_request(model):
    held = Held(model)
    held.go.set()

    async def ask_one() -> None:
        batcher = Batcher(held, Limits())
        batcher.start()
        try:
            await batcher.predict([b"no image", *(png(20, grey) for grey in range(20))])
        finally:
            await batcher.close()

    with pytest.raises(Exception, match="no known picture"):
        asyncio.run(ask_one())
    assert len(held.decoded) < 21


@pytest.mark.parametrize("times", [2, 5000])
def test_too_large_a_body_is_answered_after_it_was_sent(start, times):
    url = start(bytes=1000)
    connection = connect(url, HALF + f"Content-Length: {times * 1000}\r\n\r\n".encode())
    for _ in range(times):
        connection.sendall(b"x" * 1000)
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    said = rest(connection)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"at most 1000 bytes" in said
    assert b"HTTP/1.1 200 " in said, "what follows on the connection is answered too"


def test_who_asks_first_whether_to_send_a_body_is_told_at_once_that_it_is_too_large(start):
    url = start(bytes=1000)
    said = rest(connect(url, HALF + b"Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n"))
    assert said.startswith(b"HTTP/1.1 413 ")
