"""The HTTP server: what is asked and answered, and how it starts and stops."""

from __future__ import annotations

import asyncio
import copy
import socket
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, create_model
from uvicorn.config import LOGGING_CONFIG

from tlsearch.counts import plural
from tlsearch.errors import DataError, InputError
from tlsearch.models.model import Model
from tlsearch.models.serving.access import BodyLimit, HostGuard, only_with
from tlsearch.models.serving.batching import Batcher, Busy, TooMuch, Unreadable
from tlsearch.models.serving.connections import bounded
from tlsearch.models.serving.contents import BODY, read_images
from tlsearch.models.serving.limits import Limits, own_hosts

PAGE = Path(__file__).parent / "page.html"
GRACE = 10
"""Seconds that requests get to end when the server is to stop."""
BACKLOG = 2048
"""Connections that the system holds until they are taken."""


class ErrorResponse(BaseModel):
    """What is wrong with a request, as a sentence."""

    detail: str


class Health(BaseModel):
    """That the server answers, and how much it has done."""

    status: str
    images: int
    batches: int


class Card(BaseModel):
    """What the model is. ``classes`` are the names of what it tells: classes, labels, columns of numbers."""

    study: str
    task: str
    does: str
    trial: int | None
    backbone: str
    strategy: str
    classes: list[str]
    image_size: int
    metrics: dict[str, dict[str, float]]
    temperature: float
    sha256: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {
        "model": ErrorResponse,
        "description": "The request can't be read, or names another host.",
    },
    401: {"model": ErrorResponse, "description": "The token is missing or wrong."},
    408: {"model": ErrorResponse, "description": "The request wasn't complete in time."},
    413: {"model": ErrorResponse, "description": "Too many bytes, images, or pixels of all images."},
    415: {"model": ErrorResponse, "description": "Neither a form with files nor an image."},
    422: {
        "model": ErrorResponse,
        "description": "Not an image, too many pixels, or an invalid parameter.",
    },
    503: {
        "model": ErrorResponse,
        "description": "The server is busy: try again later.",
    },
}


def create_app(
    model: Model, *, limits: Limits, token: str | None, hosts: Collection[str] = ("*",)
) -> FastAPI:
    """The application around a model.

    Args:
        model: what answers.
        limits: of requests.
        token: that callers must send, if any.
        hosts: names that a request may call the server by; ``*`` is any.

    Raises:
        InputError: the model takes something else than pictures.
    """
    if model.inputs.modality != "image":
        raise InputError(f"The model takes {model.inputs.modality} items; only models of images are served.")
    batcher = Batcher(model, limits)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.close()

    study = str(model.manifest.provenance.get("study", "model"))
    app = FastAPIOffline(title=f"tlsearch: {study}", redoc_url=None, lifespan=life, version="1")
    app.state.batcher = batcher
    app.add_middleware(BodyLimit, most=limits.bytes)
    app.add_middleware(HostGuard, hosts=hosts)
    app.exception_handler(RequestValidationError)(_invalid)
    guarded = [Depends(only_with(token))] if token else []

    @app.post(
        "/predict",
        response_model=_answer_model(model),
        responses=REFUSALS,
        openapi_extra={"requestBody": BODY},
        dependencies=guarded,
    )
    async def predict(
        request: Request, top: Annotated[int | None, Query(ge=1)] = None
    ) -> dict[str, list[dict[str, Any]]]:
        """What the model tells of images: a form with files, or the bytes of one image as the body."""
        named = await read_images(request, limits)
        found = await _predictions(batcher, named, limits)
        # Away from the loop that answers: where places are told, the pictures are decoded once more.
        placed = await asyncio.to_thread(
            lambda: [model.placed(one, content) for (_, content), one in zip(named, found, strict=True)]
        )
        told = [_told(name, model, one, top) for (name, _), one in zip(named, placed, strict=True)]
        return {"predictions": told}

    @app.get("/health")
    async def health() -> Health:
        """Whether the server answers; open to all."""
        return Health(status="ok", images=batcher.images, batches=batcher.batches)

    @app.get("/model", responses={401: REFUSALS[401]} if token else {}, dependencies=guarded)
    async def card() -> Card:
        """What the model is and how well it did."""
        return _card(model)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    return app


async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    """Which parameters of a request can't be, as a sentence."""
    wrong = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
    return JSONResponse({"detail": "; ".join(wrong)}, 422)


async def _predictions(
    batcher: Batcher, named: Sequence[tuple[str, bytes]], limits: Limits
) -> Sequence[Mapping[str, Any]]:
    """Predictions of images by name.

    Raises:
        HTTPException: one can't be read, they are too many pixels together, or the server is busy.
    """
    try:
        return await batcher.predict([content for _, content in named])
    except Unreadable as error:
        if not isinstance(error.cause, DataError):
            raise error.cause from None
        raise HTTPException(422, f"{named[error.number][0]} {error.cause.message}.") from None
    except TooMuch as error:
        raise HTTPException(
            413,
            f"The images have {error.pixels} pixels together; at most {limits.all_pixels} are taken in "
            "one request. Send fewer or smaller ones.",
        ) from None
    except Busy:
        raise HTTPException(
            503, "The server is busy: try again later.", headers={"Retry-After": "1"}
        ) from None


def run(
    model: Model,
    *,
    host: str,
    port: int,
    token: str | None,
    limits: Limits,
    told: Callable[[str], None],
    allowed: Collection[str] = (),
) -> None:
    """Serve until interrupted; then answer what has come in.

    Args:
        model: what answers.
        host: address to listen on.
        port: 0 takes a free one.
        token: that callers must send, if any.
        limits: of requests.
        told: gets a line for the user.
        allowed: names that a request may call the server by besides this machine's own; of a server that
            other machines can ask, only these, or any name where there are none.

    Raises:
        InputError: nothing can listen there.
        KeyboardInterrupt: Ctrl-C was pressed; everything is closed.
    """
    app = create_app(model, limits=limits, token=token, hosts=_hosts(host, allowed))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"Can't listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}.",
            hint="Is another server running? --port 0 takes a free port.",
        ) from None
    shown = f"[{host}]" if ":" in host else host
    told(f"Serving on http://{shown}:{listening.getsockname()[1]} (pages / and /docs). Ctrl-C stops it.")
    try:
        with listening:
            uvicorn.Server(configured(app, limits)).run(sockets=[listening])
    finally:
        batcher: Batcher = app.state.batcher
        batches = plural(batcher.batches, "batch", "batches")
        told(f"Stopped after {plural(batcher.images, 'image')} in {batches}.")


def configured(app: FastAPI, limits: Limits, *, port: int = 8000) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,
        port=port,
        http=bounded(limits),
        ws="none",
        log_config=_logging(),
        timeout_graceful_shutdown=GRACE,
        server_header=False,
    )


def _hosts(host: str, allowed: Collection[str]) -> tuple[str, ...]:
    own = own_hosts(host)
    return tuple(allowed) or own if "*" in own else (*own, *allowed)


def _logging() -> dict[str, Any]:
    """uvicorn's own, all on stderr, without the sentences that we tell ourselves."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["handlers"]["access"]["stream"] = "ext://sys.stderr"
    config["loggers"]["uvicorn.error"]["level"] = "WARNING"
    return config


def _answer_model(model: Model) -> type[BaseModel]:
    """The schema of an answer: a prediction for each image, in their order, as the model's task tells it."""
    task = model.task
    told: dict[str, Any] = {name: (task.answer_types.get(name, Any), ...) for name in task.unreadable}
    prediction: Any = create_model("Prediction", item=(str, ...), **told)
    return create_model("Answer", predictions=(list[prediction], ...))


def _told(name: str, model: Model, prediction: Mapping[str, Any], top: int | None) -> dict[str, Any]:
    """A prediction of an image, with as many answers as were asked for."""
    return {"item": name, **(prediction if top is None else model.task.shortened(prediction, top))}


def _card(model: Model) -> Card:
    manifest = model.manifest
    trial = manifest.provenance.get("trial")
    return Card(
        study=str(manifest.provenance.get("study", "")),
        task=manifest.task,
        does=model.task.does(model.target_spec),
        trial=trial if isinstance(trial, int) else None,
        backbone=manifest.backbone,
        strategy=manifest.strategy,
        classes=list(model.classes),
        image_size=int(model.inputs.shape[-1]),
        metrics={split: dict(scores) for split, scores in manifest.metrics.items()},
        temperature=model.temperature,
        sha256=manifest.sha256,
    )
