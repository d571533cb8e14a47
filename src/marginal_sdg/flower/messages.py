"""What passes between server and clients: flat records of plain values, as Flower's ``ConfigRecord`` holds them.

Arrays travel as bytes of a fixed type, models as ``.npz`` files, all else as text or JSON: nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from marginal_sdg.errors import ProtocolError

Value = int | float | str | bytes | list[int] | list[bytes]
Fields = Mapping[str, Value]
Floats = npt.NDArray[np.float64]

WHO, ENROL, SELECT, KEYS, SHARES, MASKED, UNMASK = ("who", "enrol", "select", "keys", "shares", "masked", "unmask")


class Wire(Protocol):
    """Carries questions to clients, and back the answers that came in time."""

    def __len__(self) -> int:
        """How many clients there are."""
        ...

    def ask(self, questions: Mapping[int, Fields]) -> dict[int, Fields]:
        """One question to each of some clients; who is missing in the result has not answered."""
        ...


def take(fields: Fields, name: str, kind: type) -> Any:
    """A field of a message; ``ProtocolError`` where it is missing or of another type."""
    value = fields.get(name)
    if type(value) is not kind:
        raise ProtocolError(f"message: field {name!r} is no {kind.__name__}; both ends need the same marginal_sdg")
    return value


def from_json(fields: Fields, name: str) -> Any:
    """A field that holds JSON."""
    try:
        return json.loads(take(fields, name, str))
    except json.JSONDecodeError:
        raise ProtocolError(f"message: field {name!r} is no JSON; both ends need the same marginal_sdg") from None


def packed(values: Floats) -> bytes:
    """(n,) float64 as little-endian bytes."""
    return values.astype("<f8").tobytes()


def floats(data: bytes, length: int) -> Floats:
    """The same back; ``ProtocolError`` unless there are ``length`` finite numbers."""
    values = np.frombuffer(data, dtype="<f8") if len(data) == 8 * length else np.array([np.nan])
    if not np.isfinite(values).all():
        raise ProtocolError(f"message: an array does not hold {length} finite numbers")
    return values.astype(np.float64)


def size_of(fields: Fields) -> int:
    """Bytes of the values of a message."""
    return sum(_size(value) for value in fields.values())


def _size(value: Value) -> int:
    if isinstance(value, list):
        return sum(_size(item) for item in value)
    return len(value) if isinstance(value, bytes) else len(value.encode()) if isinstance(value, str) else 8
