"""The inside of a SentencePiece model: its pieces, and its other settings (protobuf's wire format,
whose fields are numbered as in sentencepiece_model.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

# ModelProto
_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and whole encoding, tag included, of every field of a message."""
    place = 0
    while place < len(data):
        start = place
        tag, place = varint(data, place)
        kind = tag & 7
        if kind == _VARINT:
            _, place = varint(data, place)
        elif kind == _BYTES:
            length, place = varint(data, place)
            place += length
        elif kind in (_FIXED32, _FIXED64):
            place += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a SentencePiece model has no fields of kind {kind}")
        if place > len(data):
            raise ValueError("the SentencePiece model is cut off")
        yield tag >> 3, data[start:place]


def varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place behind it."""
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place
    raise ValueError("the SentencePiece model is cut off")


def encoded(number: int, value: bytes | int | float) -> bytes:
    """A field."""
    if isinstance(value, bytes):
        return number_bytes(number << 3 | _BYTES) + number_bytes(len(value)) + value
    if isinstance(value, float):
        return number_bytes(number << 3 | _FIXED32) + struct.pack("<f", value)
    return number_bytes(number << 3 | _VARINT) + number_bytes(value)


def number_bytes(value: int) -> bytes:
    """A number of seven bits a byte."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def other_settings(model: bytes) -> bytes:
    """A serialized model without its pieces: how texts are normalized and split."""
    return b"".join(whole for number, whole in fields(model) if number != _PIECE)


def usual_settings() -> bytes:
    """BPE that falls back to bytes, over the text as it is with a blank in front."""
    trainer = encoded(3, 2) + encoded(35, 1)  # model_type BPE, byte_fallback
    normalizer = encoded(1, b"identity") + encoded(3, 1) + encoded(4, 0) + encoded(5, 1)
    return encoded(_TRAINER, trainer) + encoded(_NORMALIZER, normalizer)


def from_pieces(pieces: Sequence[tuple[str, float, int]], settings: bytes | None) -> bytes:
    """A serialized model of pieces (text, score, kind) and what `other_settings` gave."""
    body = b"".join(
        encoded(_PIECE, encoded(1, piece.encode()) + encoded(2, score) + encoded(3, kind))
        for piece, score, kind in pieces
    )
    return body + (usual_settings() if settings is None else settings)
