"""SPU as the engine: ABY3 on 64-bit integers, whose share of a vector is x_i, x_{i+1} for every value in turn.

SPU 0.9 computes modulo 2^64 and compares by the sign of a difference. ``jnp.argmax`` of int64 answers wrong places on
it, so here all pairs are compared. What SPU sends is only known from its log.

Source: Ma et al., "SecretFlow-SPU", USENIX ATC 2023; Mohassel and Rindal, "ABY3", CCS 2018.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import numpy as np

from marginal_sdg.crypto.identity import AUTHORITY, CERTIFICATE, KEY
from marginal_sdg.crypto.rss import SERVERS, Shares, Words
from marginal_sdg.crypto.transport import Transcript
from marginal_sdg.errors import ConfigError, ProtocolError

_LOG = "spu.log"
_SENT = re.compile(r"Link details: total send bytes (\d+)")


class LinkError(ProtocolError):
    """The servers do not reach each other: the session can go on when they do."""


def library() -> Any:
    """SPU; ``ConfigError`` where it is missing."""
    try:
        import spu
        import spu.libspu  # any folder of that name would do for the first
    except ImportError as error:
        raise ConfigError(
            "spu: is not installed; it needs an environment of its own with Python 3.10 or 3.11: "
            "pip install 'marginal-sdg[spu]'"
        ) from error
    return spu


class LinkTransport:
    """A party's end of SPU's link. SPU numbers the messages; their length is checked here."""

    def __init__(self, rank: int, link: Any) -> None:
        self.rank = rank
        self.transcript = Transcript()
        self._link = link

    def next_round(self) -> None:
        """Begin the next round."""
        self.transcript.rounds += 1

    def send(self, to: int, words: Words) -> None:
        """Send words; does not wait for the receiver."""
        payload = words.tobytes()
        self.transcript.payload_bytes += len(payload)
        self.transcript.messages += 1
        _linked(lambda: self._link.send_async(to, payload))

    def receive(self, sender: int, count: int) -> Words:
        """The next message from ``sender``, of ``count`` words."""
        payload = _linked(lambda: self._link.recv(sender))
        if len(payload) != 8 * count:
            raise ProtocolError(f"server {sender}: {len(payload)} bytes came where {count} words are needed")
        return np.frombuffer(payload, dtype=np.uint64)


class SpuEngine:
    """One server's engine for one session. ``log``: the file that SPU writes, see :func:`logged_to`."""

    def __init__(self, rank: int, link: Any, log: Path) -> None:
        spu = library()
        config = spu.RuntimeConfig(protocol=spu.libspu.ABY3, field=spu.libspu.FM64)
        config.enable_pphlo_profile = True  # or its link says nothing of bytes
        self.transport = LinkTransport(rank, link)
        self._runtime = spu.Runtime(link, config)
        self._log = log
        self._read = log.stat().st_size
        self._computed = 0

    @property
    def sent(self) -> int:
        """Bytes to the other servers: of shares and noise, and what SPU says that it sent."""
        return self.transport.transcript.payload_bytes + self._computed

    def absolute(self, x: Shares) -> Shares:
        """Shares of |x|."""
        return self._run(absolute, x) if len(x) else x

    def first_largest(self, scores: Shares) -> Shares:
        """Shares, (1,), of the place of the largest score, the first one of several."""
        return self._run(first_largest, scores) if len(scores) > 1 else scores - scores  # SPU would not share a 0

    def _run(self, program: Callable[[Any], Any], x: Shares) -> Shares:
        """Compute on (n,) int64. Input and output never leave the shares."""
        spu = library().libspu
        chunk = spu.ValueChunk()
        chunk.content = np.stack([x.own, x.next], axis=-1).tobytes()
        chunk.chunk_offset, chunk.total_bytes = 0, len(chunk.content)
        share = spu.Share()
        share.meta, share.share_chunks = _meta(len(x)), [chunk.SerializeToString()]
        self._runtime.set_var("x", share)
        _linked(lambda: self._runtime.run(_compiled(program, len(x))))
        pairs = np.frombuffer(_content(spu, self._runtime.get_var("y")), dtype=np.uint64).reshape(-1, 2)
        for name in ("x", "y"):
            self._runtime.del_var(name)
        self._computed += self._logged()
        return Shares(pairs[:, 0].copy(), pairs[:, 1].copy())

    def _logged(self) -> int:
        """Bytes that SPU has logged as sent since the last look."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        self._read += len(lines)
        found = _SENT.findall(lines.decode(errors="replace"))
        if len(found) != 1:
            raise ProtocolError(f"{_LOG}: says nothing of what was sent; SPU must be the version that the extra pins")
        return int(found[0])


def absolute(x: Any) -> Any:
    """|x|, for SPU to compile."""
    import jax.numpy as jnp

    return jnp.abs(x)


def first_largest(scores: Any) -> Any:
    """The first place of the largest of (n,) int64: no other j has s_j > s_i, nor an earlier one s_j = s_i.

    For integers both are one comparison, s_j + [j < i] > s_i.
    """
    import jax.numpy as jnp

    places = np.arange(scores.shape[0])
    earlier = (places[np.newaxis, :] < places[:, np.newaxis]).astype(np.int64)
    beaten = (scores[jnp.newaxis, :] + earlier > scores[:, jnp.newaxis]).astype(jnp.int64)
    return jnp.sum((jnp.sum(beaten, axis=1) == 0).astype(jnp.int64) * places)


@lru_cache(maxsize=64)
def _compiled(program: Callable[[Any], Any], count: int) -> Any:
    import jax
    from spu import Visibility
    from spu.utils import frontend

    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]  # or integers have 32 bits
    executable, _ = frontend.compile(
        frontend.Kind.JAX,
        program,
        [np.zeros(count, dtype=np.int64)],
        {},
        ["x"],
        [Visibility.VIS_SECRET],
        lambda outputs: ["y"],
    )
    return executable


@lru_cache(maxsize=64)
def _meta(count: int) -> bytes:
    """How SPU describes a share of (count,) int64."""
    spu = library()
    config = spu.RuntimeConfig(protocol=spu.libspu.ABY3, field=spu.libspu.FM64)
    zeros = np.zeros(count, dtype=np.int64)
    meta: bytes = spu.Io(SERVERS, config).make_shares(zeros, spu.Visibility.VIS_SECRET)[0].meta
    return meta


def _content(spu: Any, share: Any) -> bytes:
    """The pieces of a share, end to end."""
    meta = spu.ValueMeta()
    meta.ParseFromString(share.meta)
    if meta.storage_type != "aby3.AShr<FM64>":
        raise ProtocolError(f"SPU: gave shares of type {meta.storage_type}; it must be the version that the extra pins")
    pieces = []
    for chunk in share.share_chunks:
        piece = spu.ValueChunk()
        piece.ParseFromString(chunk)
        pieces.append((piece.chunk_offset, piece.content))
    return b"".join(content for _, content in sorted(pieces))


def connect(rank: int, servers: Sequence[str], name: str, timeout: float, identity: Path | None) -> Any:
    """SPU's link of that name between three servers at host:port, under mutual TLS with the ``Identity`` of a folder.

    SPU lets in whoever has a certificate of the authority, whatever its name: it should be one of the servers alone.
    Waits for the others, ``timeout`` seconds at most, and as long for any message of theirs. After an error the
    process should end: SPU goes on trying.
    """
    link = library().libspu.link
    terms = link.Desc()
    terms.id = name
    terms.recv_timeout_ms = terms.http_timeout_ms = int(1000 * timeout)
    terms.connect_retry_interval_ms = 200
    terms.connect_retry_times = int(5 * timeout) + 1  # refused at once, or only after seconds
    for number, address in enumerate(servers):
        terms.add_party(f"server {number}", address)
    if identity is not None:
        terms.enable_ssl = True
        for options in (terms.server_ssl_opts, terms.client_ssl_opts):
            options.cert.certificate_path = str(identity / CERTIFICATE)
            options.cert.private_key_path = str(identity / KEY)
            options.verify.ca_file_path = str(identity / AUTHORITY)
            options.verify.verify_depth = 1
    found: SimpleQueue[Any] = SimpleQueue()

    def meet() -> None:
        try:
            found.put(link.create_brpc(terms, rank))
        except RuntimeError as error:
            found.put(error)

    Thread(target=meet, daemon=True).start()
    try:
        context = found.get(timeout=timeout)
    except Empty:
        raise LinkError(
            f"link: the other servers did not come within {timeout:g} s; start them, with identities of one authority"
        ) from None
    if isinstance(context, RuntimeError):
        raise LinkError(f"link: the other servers cannot be met ({_reason(context)})")
    return context


def logged_to(folder: Path) -> Path:
    """Have SPU write its log to a file of that folder, not to the console: once a process, before anything else.

    The log of messages, which has their contents, stays off.
    """
    logging = library().libspu.logging
    options = logging.LogOptions()
    options.system_log_path = str(folder / _LOG)
    options.enable_console_logger = False
    logging.setup_logging(options)
    return folder / _LOG


def _linked(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (RuntimeError, IndexError, ValueError) as error:
        raise LinkError(f"link: the other servers do not answer ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """SPU's errors are of many lines, with a stack trace."""
    return " ".join(str(error).partition("stacktrace:")[0].split())[:160]
