"""Questions over a connection: what goes wrong ends in one clear error on both ends, and never in a wait."""

from __future__ import annotations

import socket
import struct
from threading import Event, Thread

import pytest

from marginal_sdg.crypto.channel import Channel, address
from marginal_sdg.errors import ConfigError, ProtocolError

TIMEOUT = 5.0


def head(tag, size, magic=b"mSDG"):
    return struct.pack("<4sBxxxQ", magic, tag, size)


class Served:
    """A channel whose other end, a thread, answers by ``answer`` until it ends; ``error``: what it ended with."""

    def __init__(self, answer, timeout=TIMEOUT):
        here, there = socket.socketpair()
        self.raw = here
        self.error = None
        self.channel = Channel(here, "service", TIMEOUT)
        self.other = Channel(there, "client", timeout)
        self._thread = Thread(target=self._run, args=[answer])
        self._thread.start()

    def _run(self, answer):
        try:
            self.other.serve(answer)
        except ProtocolError as error:
            self.error = str(error)
            self.other.fail(error)
        finally:
            self.other.close()

    def ended(self):
        self._thread.join(2 * TIMEOUT)
        assert not self._thread.is_alive()
        self.raw.close()
        return self.error


def echo(step, chunks):
    return [bytes([step]), *chunks]


def test_answers_come_back_in_order_until_goodbye():
    served = Served(echo)
    with served.channel as channel:
        assert channel.ask(7, []) == [b"\x07"]
        assert channel.ask(3, [b"", b"one", b"two" * 50_000]) == [b"\x03", b"", b"one", b"two" * 50_000]
    assert served.ended() is None


def test_long_questions_are_worked_on_while_they_come():
    """Chunk 2 is made only once the service has seen chunk 1."""
    came = Event()

    def answer(step, chunks):
        first = next(chunks)
        came.set()
        return [first, *chunks]

    def made():
        yield b"1"
        assert came.wait(TIMEOUT)
        yield b"2"

    served = Served(answer)
    with served.channel as channel:
        assert channel.ask(1, made()) == [b"1", b"2"]
    assert served.ended() is None


def test_an_error_in_the_middle_of_a_long_question_is_told_at_both_ends():
    def answer(step, chunks):
        next(chunks)
        raise ProtocolError("records: no")

    served = Served(answer)
    with pytest.raises(ProtocolError, match=r"^service: records: no$"), served.channel as channel:
        channel.ask(1, (bytes(100_000) for _ in range(10_000)))  # a gigabyte, of which little is sent
    assert served.ended() == "records: no"


def test_a_peer_may_ask_back_before_it_answers():
    def answer(step, chunks):
        return [served.other.ask_back(chunk) for chunk in list(chunks)]

    served = Served(answer)
    served.channel.partner = lambda message: message[::-1]
    with served.channel as channel:
        assert channel.ask(1, [b"abc", b"de"]) == [b"cba", b"ed"]
    assert served.ended() is None


def test_who_has_nobody_to_ask_says_so():
    served = Served(lambda step, chunks: [served.other.ask_back(chunk) for chunk in list(chunks)])
    with pytest.raises(ProtocolError, match="asked back for what nobody here has"), served.channel as channel:
        channel.ask(1, [b"abc"])
    assert "closed the connection" in served.ended()


@pytest.mark.parametrize(
    ("sent", "match"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "something else than frames"),
        (head(1, 2**40), "something else than frames"),
        (head(1, 100) + b"cut", "closed the connection before the session was over"),
        (head(1, 1) + b"x", "closed the connection"),
        (head(1, 1) + b"x" + head(2, 1) + b"y", "sent a frame of 2 in a question of step 1"),
        (head(1, 1) + b"x" + head(252, 1) + b"\x01", "closed the connection"),
        (b"", "closed the connection"),
    ],
)
def test_a_client_that_sends_nonsense_or_vanishes_ends_the_session(sent, match):
    served = Served(echo)
    served.raw.sendall(sent)
    served.raw.shutdown(socket.SHUT_WR)
    served.raw.recv(1 << 16)
    served.raw.close()
    assert match in served.ended()


def test_a_service_that_takes_less_than_was_sent_says_so():
    served = Served(lambda step, chunks: [])
    with pytest.raises(ProtocolError, match="client: sent more than step 1 takes"), served.channel as channel:
        channel.ask(1, [b"a"])
    assert "sent more" in served.ended()


def test_silence_ends_in_an_error_after_the_timeout():
    here, there = socket.socketpair()
    with there, pytest.raises(ProtocolError, match=r"service: said nothing for 0.1 s"):
        Channel(here, "service", 0.1).ask(1, [])
    here.close()


def test_a_peer_that_takes_nothing_ends_in_an_error_after_the_timeout():
    here, there = socket.socketpair()
    with there, pytest.raises(ProtocolError, match=r"service: took nothing for 0.1 s"):
        Channel(here, "service", 0.1).ask(1, [bytes(2**26)])
    here.close()


def test_a_vanished_service_is_named():
    here, there = socket.socketpair()
    there.close()
    with pytest.raises(ProtocolError, match="service: closed the connection"):
        Channel(here, "service", 1.0).ask(1, [bytes(2**20)] * 10)
    here.close()


def test_nobody_at_an_address_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ProtocolError, match=f"server: no connection to 127.0.0.1:{port} .*start it first"):
        Channel.connect(f"127.0.0.1:{port}", "server", 1.0)


@pytest.mark.parametrize("text", ["8.8.8.8:80", "example.org:80", "127.0.0.1", "127.0.0.1:x", ":80", "127.0.0.1:70000"])
def test_addresses_of_other_machines_are_refused(text):
    with pytest.raises(ConfigError, match="on this machine"):
        address(text)


@pytest.mark.parametrize(
    ("text", "place"), [("localhost:1", ("localhost", 1)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:5", ("::1", 5))]
)
def test_addresses_of_this_machine(text, place):
    assert address(text) == place
