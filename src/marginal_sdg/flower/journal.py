"""The server's journal: what clients have answered, so that a server that is started again goes on where it was.

The server draws nothing private: clients add the noise, and what it draws (who takes part, who shares masks with whom)
comes from a seed in the journal. So it repeats its whole run from what has been answered, and asks on from there. An
answer is on disk before the next question leaves. The question that it was killed at is asked again, and clients say
again what they have said (``node.py``): of no sum does the server learn a second one, of other noise or other clients.

Only a question that enough have answered gets in. So a round that too many leave ends the run, and when it is run
again, that question is asked again. What is in the file is what the server has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from marginal_sdg.errors import ProtocolError
from marginal_sdg.flower.kept import from_line, to_line
from marginal_sdg.flower.messages import Fields
from marginal_sdg.journal import JournalFile

_FORMAT = "marginal_sdg.flower.journal/1"
Answered = tuple[str, dict[int, Fields]]


class Journal(JournalFile[Answered]):
    """Of one fit: see ``journal.py``. ``fit`` is also the name by which clients know it."""

    def __init__(self, path: Path, terms: Mapping[str, Any]) -> None:
        self._pending: dict[str, Any] | None = None
        super().__init__(path, _FORMAT, terms, _answered)

    def ask(
        self, kind: str, questions: Mapping[int, Fields], ask: Callable[[], dict[int, Fields]]
    ) -> dict[int, Fields]:
        """What clients have answered before, or do now, by ``ask``; all earlier answers are kept first."""
        if self.past:
            asked, answers = self.past.popleft()
            if asked != kind or not set(answers) <= set(questions):
                raise ProtocolError(f"{self.path}: another question was asked here; go on with the version that began")
            return answers
        self.keep()
        answers = ask()
        self._pending = {"kind": kind, "answers": {k: to_line(fields) for k, fields in answers.items()}}
        return answers

    def keep(self) -> None:
        """Put what was answered last on disk: the caller has found nothing wrong with it."""
        if self._pending:
            self.append(self._pending)
            self._pending = None


def _answered(record: Any) -> Answered:
    return record["kind"], {int(k): from_line(fields) for k, fields in record["answers"].items()}
