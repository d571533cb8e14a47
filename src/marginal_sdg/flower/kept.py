"""What outlives a process: a client's state, in its own file, and the plain values of messages as JSON."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from marginal_sdg.durable import locked, replace_file
from marginal_sdg.errors import ProtocolError
from marginal_sdg.flower.messages import Fields, Value


@contextmanager
def kept(path: Path) -> Iterator[dict[str, Value]]:
    """A client's state, alone with its file, where it is again before the block ends.

    It holds what the client has spent and answered, and secrets of the sum that is being made. An ``OSError`` where it
    cannot be written: then what the block has made must not leave the client. ``ProtocolError``: the file is damaged.
    """
    with locked(path):
        try:
            state = from_line(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ProtocolError(f"{path}: cannot be read as a client's ledger; restore it from a copy") from None
        before = to_line(state)
        yield state
        if to_line(state) != before:
            replace_file(path, [to_line(state).encode()])


def to_line(fields: Fields) -> str:
    """The fields of a message in one line of JSON."""
    return json.dumps({name: _plain(value) for name, value in fields.items()})


def from_line(line: str) -> dict[str, Value]:
    """The same back; ``ValueError``, ``LookupError``, ``TypeError`` or ``AttributeError`` for what is none."""
    return {name: _value(value) for name, value in json.loads(line).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": b64encode(value).decode()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return b64decode(value["bytes"], validate=True)
    return [_value(item) for item in value] if isinstance(value, list) else value
