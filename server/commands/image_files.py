"""The files of ``r2sm segment``: the images it reads, and its overlays, which replace nothing unasked."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import typer
from PIL import Image

from engines.errors import ImageRejected
from server.commands.paths import make_folder, require_writable
from server.images import ImageLimits, decode
from server.overlay import draw_overlay
from server.schemas import SegmentResponse

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}


class FileFailed(Exception):
    """An image could not be read, or an overlay not be written."""


def find_images(image: str) -> list[Path]:
    """The file `image` itself, or the image files in it or that it matches, sorted. Raises `BadParameter`."""
    if not image:
        raise typer.BadParameter("IMAGE is empty: the folder that one is in would be a dot")
    path = Path(image)
    try:
        if path.is_file():
            return [path]
        found = path.iterdir() if path.is_dir() else map(Path, glob.glob(image, recursive=True))
        files = sorted(file for file in found if file.is_file() and file.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise typer.BadParameter(f"{image}: {error.strerror}") from error
    if not files:
        raise typer.BadParameter(f"{image}: there is no such file, and no image in such a folder")
    return files


def overlay_of_one(images: list[Path], out: Path, *, force: bool) -> dict[Path, Path]:
    """The one image with the file of its overlay, `out`. Raises `BadParameter` as `overlays_of_many`."""
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE or out.is_dir():
        raise typer.BadParameter(f"--out: {out} is not the name of an image file, such as overlay.png")
    require_writable(out.parent, "--out")
    _check_free(images, [out], force)
    return dict.fromkeys(images, out)


def overlays_of_many(images: list[Path], out: Path, *, force: bool) -> dict[Path, Path]:
    """Each image with the file of its overlay, in the folder `out`, which is made.

    Raises:
        BadParameter: nothing can be written there; or an overlay would replace one of the images, another's overlay
            or, without `force`, a file that is there already.
    """
    overlays = {image: out / f"{image.stem}.png" for image in images}
    wanted = Counter(overlays.values())
    for image, overlay in overlays.items():
        if wanted[overlay] > 1:
            raise typer.BadParameter(
                f"--out: {image} and another image would both have their overlay at {overlay}"
            )
    make_folder(out, "--out")
    _check_free(images, overlays.values(), force)
    return overlays


def _check_free(images: Iterable[Path], overlays: Iterable[Path], force: bool) -> None:
    """Raises `BadParameter` if an overlay is an image, under whatever name, or there already and not to be forced."""
    there = [overlay for overlay in overlays if overlay.exists()]
    originals = {_identity(image) for image in images}
    for overlay in there:
        if _identity(overlay) in originals:
            raise typer.BadParameter(f"--out: {overlay} is itself an image to segment")
    if there and not force:
        more = f" and {len(there) - 1} more" if there[1:] else ""
        raise typer.BadParameter(f"--out: {there[0]}{more} would be replaced, which only --force does")


def _identity(file: Path) -> tuple[int, int]:
    """The same for all names of a file, links among them."""
    found = file.stat()
    return found.st_dev, found.st_ino


def read_image(image: Path) -> bytes:
    """The bytes of an image. Raises `FileFailed`."""
    try:
        return image.read_bytes()
    except OSError as error:
        raise FileFailed(f"the image cannot be read: {error.strerror}") from error


def write_overlay(data: bytes, response: SegmentResponse, overlay: Path) -> None:
    """Draw an answer over the image in `data`, of whatever size: the server took it. Raises `FileFailed`."""
    limits = ImageLimits(len(data), response.image.width * response.image.height)
    try:
        draw_overlay(decode(data, limits), response).save(overlay)
    except (OSError, ValueError, ImageRejected) as error:
        raise FileFailed(f"{overlay} cannot be written: {error}") from error
