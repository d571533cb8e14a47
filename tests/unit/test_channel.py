"""Questions over a connection: what goes wrong ends in one clear error on both ends, and never in a wait."""

from __future__ import annotations

import socket
from threading import Event

import pytest

from marginal_sdg.crypto.channel import Channel
from marginal_sdg.crypto.identity import AUTHORITY, CERTIFICATE, KEY, Identity, issue
from marginal_sdg.crypto.stream import Service, Stream, address
from marginal_sdg.errors import ConfigError, ProtocolError

pytest.importorskip("grpc", reason="processes of their own need the extra services")

TIMEOUT = 5.0
ROLE = "service"


class Served:
    """A service whose sessions answer by ``answer`` until they end; ``error``: what the last one ended with."""

    def __init__(self, answer=lambda step, chunks: [bytes([step]), *chunks], timeout=TIMEOUT, identity=None):
        self.error, self.who, self._ended = None, None, Event()
        self._answer, self._timeout = answer, timeout
        self.service = Service("127.0.0.1:0", self._session, identity)
        self.where = f"127.0.0.1:{self.service.port}"

    def _session(self, stream):
        self.who, self.other = stream.peer, Channel(stream, "client", self._timeout)
        try:
            self.other.greet(ROLE)
            self.other.serve(self._answer)
        except ProtocolError as error:
            self.error = str(error)
            self.other.fail(error)
        finally:
            self._ended.set()

    def connect(self, timeout=TIMEOUT, identity=None):
        return Channel.connect(self.where, ROLE, timeout, identity)

    def ended(self):
        assert self._ended.wait(2 * TIMEOUT)
        return self.error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.service.close()


def test_answers_come_back_in_order_until_goodbye():
    with Served() as served:
        with served.connect() as channel:
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

    with Served(answer) as served, served.connect() as channel:
        assert channel.ask(1, made()) == [b"1", b"2"]


def test_long_answers_are_worked_on_while_they_come():
    """Chunk 2 is made only once the client has seen chunk 1."""
    came = Event()

    def answer(step, chunks):
        list(chunks)

        def made():
            yield b"1"
            assert came.wait(TIMEOUT)
            yield b"2"

        return made()

    with Served(answer) as served, served.connect() as channel:
        answers = channel.stream(1, [])
        assert next(answers) == b"1"
        came.set()
        assert list(answers) == [b"2"]


def test_nobody_sends_far_ahead_of_a_slow_service():
    """Of a gigabyte that nobody takes, only what fits on the way is made."""
    made = []

    def chunks():
        for number in range(1000):
            made.append(number)
            yield bytes(2**20)

    with Served(lambda step, chunks: [next(chunks)] and Event().wait()) as served:
        channel = served.connect(timeout=0.5)
        with pytest.raises(ProtocolError, match=r"service: took nothing for 0.5 s"):
            channel.ask(1, chunks())
        channel.close()
    assert len(made) < 50


def test_an_error_in_the_middle_of_a_long_question_is_told_at_both_ends():
    def answer(step, chunks):
        next(chunks)
        raise ProtocolError("records: no")

    with Served(answer) as served:
        with pytest.raises(ProtocolError, match=r"^service: records: no$"), served.connect() as channel:
            channel.ask(1, (bytes(100_000) for _ in range(10_000)))  # a gigabyte, of which little is sent
        assert served.ended() == "records: no"


def test_a_peer_may_ask_back_before_it_answers():
    with Served(lambda step, chunks: [served.other.ask_back(chunk) for chunk in list(chunks)]) as served:
        with served.connect() as channel:
            channel.partner = lambda message: message[::-1]
            assert channel.ask(1, [b"abc", b"de"]) == [b"cba", b"ed"]
        assert served.ended() is None


def test_who_has_nobody_to_ask_says_so():
    with Served(lambda step, chunks: [served.other.ask_back(chunk) for chunk in list(chunks)]) as served:
        with pytest.raises(ProtocolError, match="asked back for what nobody here has"), served.connect() as channel:
            channel.ask(1, [b"abc"])
        assert "closed the connection" in served.ended()


@pytest.mark.parametrize(
    ("sent", "match"),
    [
        ([b""], "something else than messages"),
        ([b"\x01x"], "closed the connection before the session was over"),
        ([b"\x01x", b"\x02y"], "sent a message of 2 in a question of step 1"),
        ([b"\x01x", b"\xfc\x01"], "closed the connection"),
        ([b"\xfeback"], "sent a message of 254 in a question of step 254"),
        ([], "closed the connection"),
    ],
)
def test_a_client_that_sends_nonsense_or_vanishes_ends_the_session(sent, match):
    with Served() as served:
        channel = served.connect()
        for message in sent:
            channel._stream.outgoing.put(message, TIMEOUT)
        channel._stream.outgoing.close()
        assert match in served.ended()
        channel.close()


def test_a_service_that_takes_less_than_was_sent_says_so():
    with Served(lambda step, chunks: []) as served:
        with pytest.raises(ProtocolError, match="client: sent more than step 1 takes"), served.connect() as channel:
            channel.ask(1, [b"a"])
        assert "sent more" in served.ended()


def test_silence_ends_in_an_error_after_the_timeout():
    go_on = Event()
    with Served(lambda step, chunks: [b"" for _ in chunks if go_on.wait()]) as served:
        channel = served.connect(timeout=0.2)
        with pytest.raises(ProtocolError, match=r"service: said nothing for 0.2 s"):
            channel.ask(1, [b"anybody?"])
        channel.close()
        go_on.set()


def test_who_does_not_greet_is_sent_away():
    with Served(timeout=0.2) as served:
        stream = Stream.connect(served.where, ROLE)
        assert b"said nothing for 0.2 s" in stream.incoming.take(TIMEOUT)
        stream.hang_up()
        with served.connect() as channel:
            assert channel.ask(7, []) == [b"\x07"]


def test_a_vanished_service_is_named():
    with Served() as served:
        channel = served.connect()
    with pytest.raises(ProtocolError, match="service: closed the connection"):
        channel.ask(1, [bytes(2**20)] * 10)
    channel.close()


def test_nobody_at_an_address_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ProtocolError, match=f"server: no connection to 127.0.0.1:{port} .*refused.*start it first"):
        Channel.connect(f"127.0.0.1:{port}", "server", TIMEOUT)


def test_an_address_in_use_is_named():
    with Served() as served, pytest.raises(ConfigError, match=f"address: {served.where} cannot be listened at"):
        Service(served.where, lambda stream: None)


@pytest.mark.parametrize("text", ["8.8.8.8:80", "example.org:80"])
def test_other_machines_are_for_those_with_an_identity(text):
    with pytest.raises(ConfigError, match="not on this machine"):
        address(text, authenticated=False)
    assert address(text, authenticated=True) == text


@pytest.mark.parametrize("text", ["127.0.0.1", "127.0.0.1:x", ":80", "127.0.0.1:70000"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ConfigError, match="needs host:port"):
        address(text, authenticated=True)


@pytest.mark.parametrize("text", ["localhost:1", "127.0.0.1:0", "[::1]:5"])
def test_addresses_of_this_machine(text):
    assert address(text, authenticated=False) == text


def test_the_standard_health_check_is_answered():
    import grpc

    with Served() as served, grpc.insecure_channel(served.where) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=TIMEOUT) == b"\x08\x01"


# --- certificates ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    """Of one authority, by name, and one of another authority under a name of the first."""
    folder, elsewhere = (tmp_path_factory.mktemp(name) for name in ("ours", "theirs"))
    issue(folder, ["service", "client"])
    issue(folder, ["other"])  # later, by the same authority
    issue(elsewhere, ["service", "client"])
    ours = {name: Identity.load(folder / name) for name in ("service", "client", "other")}
    return ours | {f"foreign {name}": Identity.load(elsewhere / name) for name in ("service", "client")}


def test_both_ends_know_each_other_by_certificate(identities):
    with Served(identity=identities["service"]) as served:
        with served.connect(identity=identities["client"]) as channel:
            assert channel.ask(7, []) == [b"\x07"]
        assert served.who == "client"


@pytest.mark.parametrize(
    ("service", "client"),
    [
        ("service", "foreign client"),  # nobody gets in with a certificate of another authority,
        ("service", None),  # or without one;
        ("foreign service", "client"),  # nobody talks to a service of another authority,
        ("other", "client"),  # or to one that is certified as something else,
        (None, "client"),  # or as nothing
    ],
)
def test_nobody_is_let_in_or_believed_without_the_right_certificate(identities, service, client):
    with Served(identity=identities.get(service)) as served:
        refused = r"^service: no connection to .*both ends$|^service: .* have both ends an identity, or none\?$"
        with pytest.raises(ProtocolError, match=refused):
            served.connect(identity=identities.get(client), timeout=1.0)
        assert served.who is None  # no session began


def test_signatures_name_their_role(identities):
    signature = identities["service"].sign(b"message")
    identities["client"].check("service", b"message", signature)
    for role, message, signed in [
        ("service", b"massage", signature),
        ("other", b"message", signature),
        ("service", b"message", identities["other"].sign(b"message")),
        ("service", b"message", identities["foreign service"].sign(b"message")),
        ("service", b"message", b""),
        ("service", b"message", signature[:-1]),
    ]:
        with pytest.raises(ProtocolError, match="is not signed by it"):
            identities["client"].check(role, message, signed)


def test_an_identity_that_is_none_is_named(tmp_path):
    issue(tmp_path, ["client"])
    with pytest.raises(ConfigError, match=r"identity: .*: No such file or directory; make it with `certificates`"):
        Identity.load(tmp_path / "nobody")
    assert (tmp_path / "client" / KEY).stat().st_mode & 0o077 == 0
    for name in (AUTHORITY, CERTIFICATE, KEY):
        issue(tmp_path, ["client"])
        (tmp_path / "client" / name).write_text("nonsense")
        with pytest.raises(ConfigError, match="holds no certificate of its authority and key"):
            Identity.load(tmp_path / "client")
