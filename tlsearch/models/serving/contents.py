"""The images in a request: a form with files, or the bytes of one image."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from tlsearch.models.serving.limits import Limits

FORM = "multipart/form-data"
RAW = ("application/octet-stream", "image/jpeg", "image/png", "image/webp", "image/*")
BINARY = {"type": "string", "format": "binary"}
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        FORM: {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {"files": {"type": "array", "minItems": 1, "items": BINARY}},
            }
        },
        **{kind: {"schema": BINARY} for kind in RAW},
    },
}
"""What OpenAPI is told of it."""
_TOO_MANY = "Too many files"


async def read_images(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """Names and contents of the images of a request; at least one.

    Raises:
        HTTPException: 400, 413, 415 or 422, with a sentence.
    """
    try:
        return await _read(request, limits)
    except ClientDisconnect:
        raise HTTPException(400, "The request was broken off.") from None


async def _read(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        return await _of_form(request, limits)
    if kind == RAW[0] or kind.startswith("image/"):
        content = await request.body()
        if not content:
            raise HTTPException(422, "The request has no body.")
        return [("image", content)]
    raise HTTPException(
        415, f"The body must be {FORM}, image/* or {RAW[0]}; it is {kind or 'of no stated type'}."
    )


async def _of_form(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    try:
        async with request.form(max_files=limits.files, max_fields=limits.files) as form:
            named = []
            for field, value in form.multi_items():
                if not isinstance(value, UploadFile):
                    raise HTTPException(422, f'The field "{field}" of the form is no file.')
                named.append((value.filename or field, await value.read()))
    except StarletteHTTPException as error:
        if error.status_code != 400:
            raise
        if error.detail.startswith(_TOO_MANY):
            raise HTTPException(413, f"At most {limits.files} images are taken in one request.") from None
        raise HTTPException(422, f"The form can't be read: {error.detail}") from None
    if not named:
        raise HTTPException(422, "The form has no files.")
    return named
