"""What the work of encrypted vaults takes: CPU seconds and bytes, by phase."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from marginal_sdg.backends.vault import EncryptionCosts
from marginal_sdg.crypto.fhe.profile import SECURITY_BITS


class Meter:
    """``seconds``: CPU seconds of this process, and ``traffic``: bytes of messages, both by phase.

    ``phases`` are named by the vault; "keys", "upload" and "compute" must be among them.
    """

    def __init__(self, phases: Sequence[str]) -> None:
        self.seconds = dict.fromkeys(phases, 0.0)
        self.traffic: dict[str, float] = dict.fromkeys(phases, 0.0)
        self._encrypting = 0.0  # of the data holders, a part of the phase "upload"

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds of what is done inside."""
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] += time.process_time() - start

    def sent(self, phase: str, messages: list[bytes]) -> list[bytes]:
        """The same messages, counted."""
        self.traffic[phase] += sum(map(len, messages))
        return messages

    def uploaded(self, messages: Iterable[bytes]) -> Iterator[bytes]:
        """The data holders' uploads, counted, and the seconds that making them takes."""
        start = time.process_time()
        for message in messages:
            self._encrypting += time.process_time() - start
            self.traffic["upload"] += len(message)
            yield message
            start = time.process_time()

    def costs(self, scheme: str, ring: int, evaluation_key_bytes: int) -> EncryptionCosts:
        """What the upload and the marginals took, before the first round."""
        working = self.seconds["upload"] - self._encrypting + self.seconds["compute"] + self.seconds.get("share", 0.0)
        return EncryptionCosts(
            seconds_keygen=self.seconds["keys"],
            seconds_encrypt=self._encrypting,
            seconds_compute=working,
            upload_bytes=int(self.traffic["upload"]),
            eval_key_bytes=evaluation_key_bytes,
            scheme=scheme,
            ring_dim=ring,
            security_bits=SECURITY_BITS,
        )
