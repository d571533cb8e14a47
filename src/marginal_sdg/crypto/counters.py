"""What a service has done so far, as Prometheus reads it: sessions, chunks, bytes and CPU seconds, by step.

None of it tells of a record: numbers and bytes follow from public sizes, and the seconds are those of work on
ciphertexts, shares and labels of public sizes. The page is for this machine only, as the timing itself is not made
constant. A holder of records has none.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

from marginal_sdg.crypto.channel import Channel, LostError
from marginal_sdg.crypto.kept import Ask, Make, Session
from marginal_sdg.errors import ConfigError

_HELP = {
    "sessions": "Sessions that began, and how they ended; lost: the connection broke.",
    "chunks": "Byte strings that came; of an upload, its blocks.",
    "bytes": "Bytes of questions that came in, and of answers.",
    "cpu_seconds": "CPU seconds of answering, of the whole process.",
}


class Counters:
    """``names``: of the steps, by number."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._counts: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._lock = Lock()

    def text(self) -> str:
        """The page."""
        with self._lock:
            counts = sorted(self._counts.items())
        lines = []
        for name, told in _HELP.items():
            lines += [f"# HELP marginal_sdg_{name}_total {told}", f"# TYPE marginal_sdg_{name}_total counter"]
            lines += [f"marginal_sdg_{kind}_total{{{labels}}} {n:.10g}" for (kind, labels), n in counts if kind == name]
        return "\n".join(lines) + "\n"

    def counted(self, session: Session) -> Session:
        """The same sessions, counted with what they ask."""

        @contextmanager
        def watched(channel: Channel, make: Make) -> Iterator[Ask]:
            self._count("sessions", 'state="begun"')
            state = "failed"
            try:
                with session(channel, make) as ask:
                    yield self._counted(ask)
                state = "done"
            except LostError:
                state = "lost"
                raise
            finally:
                self._count("sessions", f'state="{state}"')

        return watched

    def _counted(self, ask: Ask) -> Ask:
        def answer(step: int, chunks: Iterator[bytes]) -> list[bytes]:
            label = f'step="{self._names.get(step, "other")}"'

            def came() -> Iterator[bytes]:
                for chunk in chunks:
                    self._count("chunks", label)
                    self._count("bytes", f'{label},way="in"', len(chunk))
                    yield chunk

            start = time.process_time()
            try:
                made = list(ask(step, came()))
            finally:
                self._count("cpu_seconds", label, time.process_time() - start)
            self._count("bytes", f'{label},way="out"', sum(map(len, made)))
            return made

        return answer

    def listen(self, port: int) -> ThreadingHTTPServer:
        """Show the page at ``/metrics`` of a port of this machine; ``ConfigError`` where it is in use."""
        counters = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = self.path == "/metrics"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(counters.text().encode() if found else b"see /metrics\n")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        try:
            server = ThreadingHTTPServer(("127.0.0.1", port), Page)
        except (OSError, OverflowError):
            raise ConfigError(f"metrics: port {port} cannot be listened at; is it in use already?") from None
        Thread(target=server.serve_forever, daemon=True).start()
        return server

    def _count(self, kind: str, labels: str, amount: float = 1) -> None:
        with self._lock:
            self._counts[kind, labels] += amount
