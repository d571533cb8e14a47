"""The server's journal: what clients have answered, so that a server that is started again goes on where it was.

The server draws nothing private: clients add the noise, and what it draws (who takes part, who shares masks with whom)
comes from a seed in the journal. So it repeats its whole run from what has been answered, and asks on from there. An
answer is on disk before the next question leaves. The question that it was killed at is asked again, and clients say
again what they have said (``node.py``): of no sum does the server learn a second one, of other noise or other clients.

Only a question that enough have answered gets in. So a round that too many leave ends the run, and when it is run
again, that question is asked again. What is in the file is what the server has seen.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from marginal_sdg.durable import replace_file
from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.flower.kept import from_line, to_line
from marginal_sdg.flower.messages import Fields
from marginal_sdg.privacy.noise import Source

_FORMAT = "marginal_sdg.flower.journal/1"


class Journal:
    """Of one fit, in a file that is made where there is none.

    ``terms``: what the fit is about, as plain values; ``ConfigError`` where the file's are others. ``found``: there was
    a file; ``resumed``: how many answered questions are in it. ``fit``: the name by which clients know the fit.
    """

    def __init__(self, path: Path, terms: Mapping[str, Any]) -> None:
        self._path = path
        self._pending = ""
        self.found = path.exists()
        if not self.found:
            fit, seed = Source.system().key().hex(), int.from_bytes(Source.system().key(), "little")
            head = {"format": _FORMAT, "terms": terms, "fit": fit, "seed": seed}
            replace_file(path, [json.dumps(head).encode(), b"\n"])
        first, *lines = self._read()
        try:
            head = json.loads(first)
            found, self.fit, self._seed = head["terms"], str(head["fit"]), int(head["seed"])
            self._past: deque[tuple[str, dict[int, Fields]]] = deque(
                (record["kind"], {int(k): from_line(fields) for k, fields in record["answers"].items()})
                for record in map(json.loads, lines)
            )
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ConfigError(f"{path}: cannot be read as a journal; restore it from a copy") from None
        if found != json.loads(json.dumps(terms)):
            raise ConfigError(f"{path}: is of a run with other parameters; name another file for the table")
        self.resumed = len(self._past)

    def _read(self) -> list[str]:
        """Whole lines; half of one, which a crash has left, is cut off."""
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self._path, len(whole))
        return whole.decode("utf-8", "replace").splitlines() or [""]

    def source(self) -> Source:
        """Public randomness, the same in every process that goes on with the fit."""
        return Source.seeded(self._seed)

    def ask(
        self, kind: str, questions: Mapping[int, Fields], ask: Callable[[], dict[int, Fields]]
    ) -> dict[int, Fields]:
        """What clients have answered before, or do now, by ``ask``; all earlier answers are kept first."""
        if self._past:
            asked, answers = self._past.popleft()
            if asked != kind or not set(answers) <= set(questions):
                raise ProtocolError(f"{self._path}: another question was asked here; go on with the version that began")
            return answers
        self.keep()
        answers = ask()
        record = {"kind": kind, "answers": {k: to_line(fields) for k, fields in answers.items()}}
        self._pending = json.dumps(record) + "\n"
        return answers

    def keep(self) -> None:
        """Put what was answered last on disk: the caller has found nothing wrong with it."""
        if self._pending:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(self._pending)
                file.flush()
                os.fsync(file.fileno())
            self._pending = ""
