"""``/v1/images``: images that are sent once and asked about by their id."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from server.errors import NOT_FORGOTTEN
from server.openapi import IMAGE_BODY, problems
from server.schemas import StoredImageInfo
from server.services import CHARGED, IN_PLACE, KEYED, CurrentServices
from server.stored_image import StoredImage
from server.uploads import read_image

NOT_OF_IMAGES = frozenset({"image-unreachable", "model-unavailable", "vision-failed"})  # problems of requests

router = APIRouter(prefix="/v1/images", tags=["images"], dependencies=[KEYED])


@router.post(
    "",
    status_code=201,
    responses=problems(400, 401, 408, 413, 415, 422, 429, 500, 503, but=NOT_OF_IMAGES),
    openapi_extra=IMAGE_BODY,
    dependencies=[IN_PLACE],
)
async def upload(request: Request, response: Response, services: CurrentServices) -> StoredImageInfo:
    """Remember an image, as the bare file or as multipart with an `image` part, and begin its encode.

    The id is that of the file's content: the same file has the same id, and sending it again renews it.
    """
    async with services.admission.bounded():
        stored = await services.sources.upload(await read_image(request, services.upload_limits))
    response.headers["Location"] = f"/v1/images/{stored.id}"
    return _info(stored)


@router.get("/{id}", responses=problems(401, 404, 422, 429), dependencies=[CHARGED])
@router.head("/{id}", responses=problems(401, 404, 422, 429), dependencies=[CHARGED])
async def find(id: str, services: CurrentServices) -> StoredImageInfo:
    """What is known of an uploaded image."""
    return _info(await services.sources.find(id))


@router.delete(
    "/{id}", status_code=204, responses=problems(NOT_FORGOTTEN, 401, 404, 422, 429), dependencies=[CHARGED]
)
async def delete(id: str, services: CurrentServices) -> None:
    """Forget an uploaded image and everything that was made of it."""
    await services.sources.delete(id)


def _info(image: StoredImage) -> StoredImageInfo:
    return StoredImageInfo(id=image.id, width=image.width, height=image.height, expires_at=image.expires)
