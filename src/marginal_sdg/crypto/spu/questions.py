"""What DistAIM's servers are asked, in bytes: a head in JSON, then vectors of words.

==========  ===========================  ============================================  ====================
step        head                         words                                         answer
==========  ===========================  ============================================  ====================
``OPEN``    session                      none                                          none
``UPLOAD``  client, wave, cells          a seed (server 0) or a share (server 1)       none
``ADMIT``   clients, wave, cells, joins  none                                          none
``SIZE``    cells                        noise                                         noisy number
``MEASURE`` parts                        noise                                         noisy counts
``SELECT``  parts                        weights, penalties, noise, expected counts    the winner's place
==========  ===========================  ============================================  ====================

``parts``: first and last + 1 of the pool's cells, a pair for every clique. ``wave``: a part of the clients' answers.
Noise is the asked server's own part. Every answer ends with the bytes that the server has sent to the others for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from marginal_sdg.errors import ProtocolError

Integers = npt.NDArray[np.int64]
Natural = Annotated[int, Field(ge=0)]

COORDINATOR = "coordinator"  # who asks


class Step(IntEnum):
    """What is asked."""

    OPEN = 1
    UPLOAD = 2
    ADMIT = 3
    SIZE = 4
    MEASURE = 5
    SELECT = 6


class Head(BaseModel):
    """What precedes the words of a question."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Opening(Head):
    """Of a session. ``session``: a name that no other one has."""

    session: str


class Upload(Head):
    """Of one client's answers to some cells."""

    client: Natural
    wave: Natural
    cells: Natural


class Admission(Head):
    """Of answers to the pool: those of newcomers, which join it, or further ones of all members."""

    clients: tuple[Natural, ...]
    wave: Natural
    cells: Natural
    joins: bool


class Size(Head):
    """Of the newest members: the sum of their first cells, those of one 1-way marginal."""

    cells: Natural


class Parts(Head):
    """Of the pool."""

    parts: Annotated[tuple[tuple[Natural, Natural], ...], Field(min_length=1)]


_FORMS: dict[Step, tuple[type[Head], int]] = {  # the head, and how many vectors follow it
    Step.OPEN: (Opening, 0),
    Step.UPLOAD: (Upload, 1),
    Step.ADMIT: (Admission, 0),
    Step.SIZE: (Size, 1),
    Step.MEASURE: (Parts, 1),
    Step.SELECT: (Parts, 4),
}


def role(rank: int) -> str:
    """What a server is called."""
    return f"server {rank}"


def pack(head: Head, *vectors: bytes) -> list[bytes]:
    """A question as byte strings."""
    return [head.model_dump_json().encode(), *vectors]


def unpack(step: int, chunks: Iterable[bytes]) -> tuple[Step, Any, list[bytes]]:
    """Its step, head and vectors; ``ProtocolError`` where they do not fit each other."""
    head, *vectors = [*chunks] or [b""]
    if step not in [*Step]:
        raise ProtocolError(f"question: there is no step {step}; both ends need the same version")
    form, count = _FORMS[Step(step)]
    name = Step(step).name.lower()
    try:
        fields = form.model_validate_json(head)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "head"
        raise ProtocolError(f"{name}: {place}: {first['msg']}; both ends need the same version") from None
    if len(vectors) != count:
        raise ProtocolError(f"{name}: needs {count} vectors, got {len(vectors)}")
    return Step(step), fields, vectors


def integers(words: bytes, count: int, what: str) -> Integers:
    """(count,) int64 from bytes."""
    if len(words) != 8 * count:
        raise ProtocolError(f"{what}: {len(words)} bytes came where {count} words are needed")
    return np.frombuffer(words, dtype=np.int64)
