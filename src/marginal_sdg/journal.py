"""The journal of whoever asks others: what was asked and answered, in a file, so that it can be started again."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from marginal_sdg.durable import replace_file
from marginal_sdg.errors import ConfigError
from marginal_sdg.privacy.noise import Source

Record = TypeVar("Record")


class JournalFile(Generic[Record]):
    """Of one fit, in a file that is made where there is none: lines of JSON, a head and then records.

    ``form``: the format's name; ``terms``: what the fit is about, as plain values; ``ConfigError`` where the file's are
    others. ``parse`` makes a record of plain values, and may raise what damaged ones lead to. ``found``: there was a
    file; ``fit``: a fresh name; ``past``: the records in it, of which whoever goes on takes one after the other;
    ``resumed``: how many there are.
    """

    def __init__(self, path: Path, form: str, terms: Mapping[str, Any], parse: Callable[[Any], Record]) -> None:
        self.path = path
        self.found = path.exists()
        if not self.found:
            fit, seed = Source.system().key().hex(), int.from_bytes(Source.system().key(), "little")
            head = {"format": form, "terms": terms, "fit": fit, "seed": seed}
            replace_file(path, [json.dumps(head).encode(), b"\n"])
        first, *lines = self._read()
        try:
            head = json.loads(first)
            if head["format"] != form:
                raise ValueError("another format")
            found, self.fit, self._seed = head["terms"], str(head["fit"]), int(head["seed"])
            self.past: deque[Record] = deque(parse(json.loads(line)) for line in lines)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ConfigError(f"{path}: cannot be read as a journal; restore it from a copy") from None
        if found != json.loads(json.dumps(terms)):
            raise ConfigError(f"{path}: is of a run with other parameters; name another file, or move this one away")
        self.resumed = len(self.past)

    def source(self) -> Source:
        """Public randomness, the same in every process that goes on with the fit."""
        return Source.seeded(self._seed)

    def append(self, record: Any) -> None:
        """One record more, of plain values, which is on disk before this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> list[str]:
        """Whole lines; half of one, which a crash has left, is cut off."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        return whole.decode("utf-8", "replace").splitlines() or [""]
