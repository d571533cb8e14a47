"""What DistAIM's servers and clients are asked, in bytes: a head in JSON, then vectors of words.

==========  ====================================  ====================================  ====================
step        head                                  words                                 answer
==========  ====================================  ====================================  ====================
``OPEN``    terms, clients, variance, where       none                                  its session's name
``UPLOAD``  terms, client, wave, sizes            a seed (server 0), share (server 1)   none
``HELD``    wave, sizes                           none                                  clients that sent them
``ADMIT``   clients, wave, sizes, joins           none                                  none
``SIZE``    none                                  none                                  noisy number
``MEASURE`` cliques, variance                     none                                  noisy counts
``SELECT``  cliques, epsilon squared              weights, penalties, expected counts   the winner's place
``SHARE``   terms, client, wave, cliques, domain  none                                  none
==========  ====================================  ====================================  ====================

Clients send ``UPLOAD`` to the servers and are asked to ``SHARE`` by the coordinator, who asks all else; it may play
clients itself. ``wave``: a part of the clients' answers; ``sizes``: cells of each of its cliques. Servers know cliques
by their places in the pool. A server's answer ends with the bytes that it has sent to the others for it.

All but ``UPLOAD`` and ``HELD`` have places in their session, from 0. ``OPEN`` is the first, and is asked once more
where a session goes on that broke: with the number of questions that all servers have answered.
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
Positive = Annotated[int, Field(ge=1)]
Ratio = Annotated[str, Field(pattern=r"^[1-9]\d*(/[1-9]\d*)?$", max_length=4000)]  # a positive fraction

COORDINATOR = "coordinator"  # who asks
CLIENT = "client"  # and a number


class Step(IntEnum):
    """What is asked."""

    OPEN = 1
    UPLOAD = 2
    ADMIT = 3
    SIZE = 4
    MEASURE = 5
    SELECT = 6
    SHARE = 7
    HELD = 8


class Head(BaseModel):
    """What precedes the words of a question."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Seed(Head):
    """Of all servers' noise: for experiments that repeat, as whoever knows it knows the noise."""

    entropy: Natural
    branch: tuple[Natural, ...]


class Terms(Head):
    """What servers and clients have to agree to. ``session``: for servers, any name; for clients, all the servers'."""

    session: str
    epsilon: float
    delta: float
    group: Positive
    seed: Seed | None = None


class Opening(Head):
    """Of a session: at most so many clients, whose cohorts' sizes are released with this variance.

    ``answered``: it goes on after so many questions, by a connection of the servers with the fresh name ``link``.
    """

    terms: Terms
    clients: Positive
    variance: Ratio
    answered: Natural = 0
    link: str = ""


class Upload(Head):
    """Of one client's answers to some cliques."""

    terms: Terms
    client: Natural
    wave: Natural
    sizes: tuple[Positive, ...]


class Holding(Head):
    """Of which clients have sent this part of their answers."""

    wave: Natural
    sizes: tuple[Positive, ...]


class Admission(Head):
    """Of answers to the pool: those of newcomers, which join it, or further ones of all members."""

    clients: Annotated[tuple[Natural, ...], Field(min_length=1)]
    wave: Natural
    sizes: tuple[Positive, ...]
    joins: bool


class Measuring(Head):
    """Of some cliques of the pool."""

    cliques: Annotated[tuple[Natural, ...], Field(min_length=1)]
    variance: Ratio


class Selecting(Head):
    """Between some cliques of the pool."""

    cliques: Annotated[tuple[Natural, ...], Field(min_length=1)]
    epsilon2: Ratio


class Sharing(Head):
    """Of a client's answers, with servers 0 and 1."""

    terms: Terms
    client: Natural
    wave: Natural
    cliques: tuple[tuple[str, ...], ...]
    domain: dict[str, Any]


_FORMS: dict[Step, tuple[type[Head], int]] = {  # the head, and how many vectors follow it
    Step.OPEN: (Opening, 0),
    Step.UPLOAD: (Upload, 1),
    Step.ADMIT: (Admission, 0),
    Step.SIZE: (Head, 0),
    Step.MEASURE: (Measuring, 0),
    Step.SELECT: (Selecting, 3),
    Step.SHARE: (Sharing, 0),
    Step.HELD: (Holding, 0),
}


def role(rank: int) -> str:
    """What a server is called."""
    return f"server {rank}"


def client_role(number: int) -> str:
    """What a client is called."""
    return f"{CLIENT} {number}"


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
