"""StoredImage: an uploaded file with what is known of it, and both as bytes.

The bytes are the magic number ``R2SI``, a format version, the upright width and height, the moment it expires, the
CRC-32 of all this, and the file, whose SHA-256 is the image's id.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime

from engines.cache.codec import BadValue
from server.images import digest_of

MAGIC, VERSION = b"R2SI", 1
GONE = b"GONE"
"""In the place of an image that was deleted."""
_HEAD = struct.Struct("<4sBIId")
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An uploaded file; sizes of the upright image in pixels, `expires_at` in seconds of the Unix clock."""

    id: str
    data: bytes
    width: int
    height: int
    expires_at: float

    @property
    def expires(self) -> datetime:
        """When it will be forgotten, in UTC to the second."""
        return datetime.fromtimestamp(int(self.expires_at), UTC)

    def encoded(self) -> bytes:
        """The image as bytes."""
        head = _HEAD.pack(MAGIC, VERSION, self.width, self.height, self.expires_at)
        return b"".join((head, _CHECKSUM.pack(zlib.crc32(head)), self.data))

    @classmethod
    def decoded(cls, id: str, value: bytes) -> StoredImage:
        """The image in `value`; blocking, because its digest is compared with its id.

        Raises:
            BadValue: it is damaged, or another image.
        """
        head, rest = value[: _HEAD.size], value[_HEAD.size :]
        data = rest[_CHECKSUM.size :]
        if len(rest) < _CHECKSUM.size or zlib.crc32(head) != _CHECKSUM.unpack_from(rest)[0]:
            raise BadValue("the header of the image is damaged")
        magic, version, width, height, expires_at = _HEAD.unpack(head)
        if (magic, version) != (MAGIC, VERSION) or digest_of(data) != id:
            raise BadValue("not the image that it should be")
        return cls(id, data, width, height, expires_at)
