"""Sessions that outlive a connection: nothing is sent that is there, nothing is answered twice, and nothing stays."""

from __future__ import annotations

import errno
import os
from itertools import count
from pathlib import Path
from shutil import rmtree
from threading import Event
from time import sleep
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from marginal_sdg.crypto import answering, kept, records
from marginal_sdg.crypto.channel import Channel, LostError
from marginal_sdg.crypto.counters import Counters
from marginal_sdg.crypto.kept import RESUME, STATE, Fleeting, Memory, Store
from marginal_sdg.crypto.notes import Told
from marginal_sdg.crypto.steady import Steady
from marginal_sdg.crypto.stream import Stream
from marginal_sdg.errors import ConfigError, ProtocolError

pytest.importorskip("grpc", reason="processes of their own need the extra services")

ROLE, TIMEOUT = "service", 5.0
NAME = bytes(32)
BACK = 9  # a question that is asked back


def keys():
    return os.urandom(32)


class Adder:
    """Its answer: random bits, what it remembers, how many bytes it has been asked so far, and more random bits."""

    made = count()

    def __init__(self, memory: Memory) -> None:
        self.partner = None
        self._memory, self._bytes = memory, 0
        self._first = memory.keys()
        self._secret = memory.remember("word", lambda: b"secret %d" % next(self.made))

    def ask(self, step, chunks):
        if step == BACK:
            message = b"".join(chunks)
            return [self._memory.remember(message.decode(), lambda: self.partner(message))]
        for chunk in chunks:
            if chunk == b"bad":
                raise ProtocolError("chunk: bad")
            self._bytes += len(chunk)
        return [bytes([step]), self._first, self._secret, b"%d" % self._bytes, self._memory.keys()]


class Role:
    """A service that can be started again; ``came``: chunks of every session; ``cut``: may end a connection."""

    def __init__(self, folder: Path | None, patience=TIMEOUT, timeout=TIMEOUT, watched=lambda session: session) -> None:
        self._folder, self._patience, self._timeout, self._watched = folder, patience, timeout, watched
        self.said, self.came = [], []
        self.cut = lambda channel, answer: None
        self.start()

    def start(self):
        self._store = Fleeting(keys) if self._folder is None else Store(self._folder, keys, self._patience)
        self._service = answering.serve(ROLE, "client", self._play, "127.0.0.1:0", self._timeout, self._tell)
        self._ended = Event()

    def _tell(self, line):
        self.said.append(line)
        self._ended.set()

    def has_taken(self, count):
        """Wait until so many chunks have come."""
        for _ in range(1000):
            if self.came and len(self.came[-1]) >= count:
                return
            sleep(TIMEOUT / 1000)
        raise AssertionError(f"{count} chunks have not come")

    def ended(self):
        """Wait until the session is over."""
        assert self._ended.wait(TIMEOUT)
        self._ended.clear()

    def _play(self, channel):
        came = []
        self.came.append(came)

        def noted(chunks):
            for chunk in chunks:
                came.append(chunk)
                yield chunk

        with self._watched(self._store.session)(channel, Adder) as ask:

            def answer(step, chunks):
                made = list(ask(step, noted(chunks)))
                self.cut(channel, made)
                return made

            channel.serve(answer)

    def connect(self):
        return Channel.connect(f"127.0.0.1:{self._service.port}", ROLE, TIMEOUT)

    def stop(self):
        self._service.close()

    def again(self):
        """Stop it in a session, and start it."""
        self.stop()
        self.ended()
        self.start()


@pytest.fixture
def role(tmp_path):
    started = Role(tmp_path / "store")
    yield started
    started.stop()


def steady(role, name=NAME, patience=TIMEOUT):
    return Steady(role.connect, name, patience)


def stored(folder, chunk):
    """The file of the first question, once the chunk is in it."""
    path = folder / "store" / "session" / "0.question"
    while not path.exists() or chunk not in path.read_bytes():
        sleep(0.01)
    return path


def test_a_role_that_is_started_again_has_the_state_that_it_had(role):
    with steady(role) as asker:
        first = asker.ask(1, [b"abc"])
        role.again()
        second = asker.ask(2, [b"de", b"f"])
    assert second[1:3] == first[1:3] and second[3] == b"6" and second[4] != first[4]
    with steady(role, b"\1" * 32) as asker:
        assert asker.ask(1, [])[1] != first[1]  # other bits in another session


def test_only_chunks_that_are_not_stored_are_sent_again(role):
    def chunks():
        for number in range(100):
            if number == 70:
                role.has_taken(1 + kept._EVERY)
                role.again()
            yield bytes([number]) * 10_000

    with steady(role) as asker:
        assert asker.ask(1, chunks())[3] == b"1000000"
    before, after = (came[1:] for came in role.came)  # the first is the name
    assert [*before, *after] == [bytes([number]) * 10_000 for number in range(100)]
    assert len(before) >= kept._EVERY


def test_the_asker_keeps_little_of_a_long_question(role):
    live = []

    class Chunk(bytes):
        def __init__(self, *_):
            live.append(self)

        def __del__(self):
            gone.append(1)

    gone: list[int] = []
    most = []

    def chunks():
        for _ in range(300):
            most.append(len(live) - len(gone))
            yield Chunk(2**18)
            live[:] = [None] * len(live)

    with steady(role) as asker:
        asker.ask(1, chunks())
    assert max(most) < 150


def test_an_answer_that_got_lost_is_sent_again_and_not_made_again(role):
    made = []

    def cut(channel, answer):
        made.append(answer)
        if len(made) == 2:  # the first is to the name
            channel.close()

    role.cut = cut
    with steady(role) as asker:
        assert asker.ask(1, [b"abc"]) == made[1]
        assert made[3:] == [made[1]]  # after the state of the session
        assert asker.ask(2, [])[3] == b"3"


def test_a_record_that_is_half_written_is_sent_again(role, tmp_path):
    """A process may die while it writes."""

    def chunks():
        yield from [b"one", b"two"]
        path = stored(tmp_path, b"two")
        role.stop()
        role.ended()
        path.write_bytes(path.read_bytes()[:-1])
        role.start()
        yield b"three"

    with steady(role) as asker:
        assert asker.ask(1, chunks())[3] == b"11"
    assert role.came[1][1:] == [b"two", b"three"]


def test_a_question_that_is_missing_ends_the_session(role, tmp_path):
    asker = steady(role)
    asker.ask(1, [b"abc"])
    role.stop()
    role.ended()
    (tmp_path / "store" / "session" / "0.question").unlink()
    role.start()
    with pytest.raises(ProtocolError, match="store: question 0 of the session is missing"), asker:
        asker.ask(1, [])


def test_nothing_is_left_of_a_session_that_is_over(role, tmp_path):
    folder = tmp_path / "store"
    with steady(role) as asker:
        asker.ask(1, [b"abc"])
        assert {path.name for path in (folder / "session").iterdir()} == {
            "title",
            "seed",
            "word.secret",
            "0.question",
            "0.answer",
        }
        modes = {path.stat().st_mode & 0o077 for path in [folder, *folder.rglob("*")]}
        assert modes == {0}
    role.ended()
    assert list(folder.iterdir()) == [folder / ".lock"]
    with pytest.raises(ProtocolError, match="service: chunk: bad"), steady(role) as asker:
        asker.ask(1, [b"bad"])
    role.ended()
    assert list(folder.iterdir()) == [folder / ".lock"]


def test_a_session_that_nobody_takes_up_again_is_removed(tmp_path):
    role = Role(tmp_path / "store", patience=0.2)
    steady(role).ask(1, [b"abc"])
    role.stop()
    role.ended()
    role._store._expiry.join(TIMEOUT)
    assert not (tmp_path / "store" / "session").exists()


def test_a_role_that_does_not_keep_its_session_ends_it():
    role = Role(None)
    asker = steady(role)
    asker.ask(1, [])
    role.again()
    with pytest.raises(LostError, match="service: closed the connection before the session was over"):
        asker.ask(1, [])
    role.stop()


def test_a_role_that_comes_back_without_the_session_ends_it(role, tmp_path):
    asker = steady(role)
    asker.ask(1, [])
    role.again()
    with steady(role, b"\1" * 32) as other:  # another session takes the place
        other.ask(1, [])
    with pytest.raises(ProtocolError, match=r"over; it has come back without the session, which .*; start another$"):
        asker.ask(1, [])
    asker._channel.close()


def test_a_role_that_says_nothing_is_looked_for_again(role):
    """Its machine may have gone without a word, and come back."""
    looked, connected = Event(), []

    def connect():
        if connected:
            looked.set()
        connected.append(Channel.connect(f"127.0.0.1:{role._service.port}", ROLE, 0.5))
        return connected[-1]

    role.cut = lambda channel, answer: len(answer) > 1 and looked.wait(TIMEOUT)
    with Steady(connect, NAME, TIMEOUT) as asker:
        assert asker.ask(1, [b"abc"])[3] == b"3"
    assert len(connected) == 2


def test_an_asker_that_says_nothing_for_long_is_let_in_again(tmp_path):
    """It may have waited for another role."""
    role = Role(tmp_path / "store", timeout=0.2)
    with steady(role) as asker:
        asker.ask(1, [b"abc"])
        role.ended()
        assert asker.ask(1, [b"de"])[3] == b"5"
    assert role.said[0] == "session ended: client: said nothing for 0.2 s; is it still there?"
    role.stop()


def test_a_folder_that_somebody_removed_is_named(role, tmp_path):
    rmtree(tmp_path / "store")
    with pytest.raises(ProtocolError, match=r"service: store: .* cannot be used \(No such file or directory"):
        steady(role)


def test_a_role_that_does_not_come_back_is_named(role):
    asker = steady(role, patience=0.1)
    role.stop()
    with pytest.raises(ProtocolError, match=r"^service: .*; it did not come back within 0.1 s$"):
        asker.ask(1, [])


def test_a_role_that_always_breaks_is_not_looked_for_for_ever(role):
    role.cut = lambda channel, answer: channel.close() if len(answer) > 1 else None
    asker = steady(role)
    with pytest.raises(LostError, match="closed the connection"):
        asker.ask(1, [])
    assert len(role.came) == 6


def test_a_role_that_asks_back_goes_on_with_what_it_was_answered(role):
    """It remembers by the message."""
    asked, cuts = [], []

    def cut(channel, answer):
        if answer == [b"2"] and not cuts:
            cuts.append(channel.close())

    def partner(message):
        asked.append(message)
        return b"%d" % len(asked)

    with steady(role) as asker:
        asker.partner = partner
        assert asker.ask(BACK, [b"one"])[-1] == b"1"
        role.again()
        assert asker.ask(BACK, [b"one"])[-1] == b"1"
        role.cut = cut
        assert asker.ask(BACK, [b"two"])[-1] == b"2"
    assert asked == [b"one", b"two"] and cuts


def test_what_breaks_elsewhere_is_not_taken_for_this_connection(role):
    asker, other = steady(role), Channel(Stream(), "other", TIMEOUT)

    def chunks():
        yield b"one"
        raise LostError(other, "elsewhere")

    with pytest.raises(LostError, match="elsewhere"), asker:
        asker.ask(1, chunks())
    assert len(role.came) == 1


@pytest.mark.parametrize(
    ("questions", "match"),
    [
        ([(1, [])], "has no name"),
        ([(RESUME, [NAME]), (RESUME, [NAME])], "has a name already"),
    ],
)
def test_a_session_has_one_name(role, questions, match):
    with pytest.raises(ProtocolError, match=match), role.connect() as channel:
        for step, chunks in questions:
            channel.ask(step, chunks)


def test_a_question_that_was_begun_is_the_one_that_goes_on(role, tmp_path):
    def chunks():
        yield b"one"
        stored(tmp_path, b"one")
        channel.close()
        yield b"two"

    channel = role.connect()
    channel.ask(RESUME, [NAME])
    with pytest.raises(LostError):
        channel.ask(1, chunks())
    with pytest.raises(ProtocolError, match="question 0 is not the one that was begun"), role.connect() as channel:
        state = channel.ask(RESUME, [NAME])
        assert STATE.unpack(*state)[0] == 0
        channel.ask(2, [])


def test_a_full_disk_ends_the_session_in_one_line(role, monkeypatch):
    def full(file, record):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    asker = steady(role)
    monkeypatch.setattr(records, "append", full)
    with asker, pytest.raises(ProtocolError, match=r"service: store: cannot be written \(No space left"):
        asker.ask(1, [b"abc"])


def test_a_folder_has_one_session_of_all_processes(role, tmp_path):
    other = Role(tmp_path / "store")
    with steady(role), pytest.raises(ProtocolError, match="another process has a session in the same folder"):
        steady(other, b"\1" * 32)
    other.stop()
    with steady(role), pytest.raises(ConfigError, match=r"^store: another process"):
        Store(tmp_path / "store", keys, 1.0)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"store: .*file cannot be used \(File exists"):
        Store(tmp_path / "file", keys, 1.0)


# --- counters -------------------------------------------------------------------------------------


def test_what_a_service_counts_can_be_read_on_this_machine(tmp_path):
    counters = Counters({1: "add"})
    page = counters.listen(0)
    role = Role(tmp_path / "store", watched=counters.counted)
    with steady(role) as asker:
        asker.ask(1, [b"abc", b"de"])
        asker._channel.close()
        asker.ask(77, [])
    role.ended()
    with pytest.raises(ProtocolError), steady(role) as asker:
        asker.ask(1, [b"bad"])
    role.ended()
    role.stop()
    with urlopen(f"http://127.0.0.1:{page.server_port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"http://127.0.0.1:{page.server_port}/")
    with pytest.raises(ConfigError, match=f"metrics: port {page.server_port} cannot be listened at"):
        counters.listen(page.server_port)
    page.shutdown()
    page.server_close()
    counted = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert {
        name.removeprefix("marginal_sdg_sessions_total"): n for name, n in counted.items() if "sessions" in name
    } == {
        '{state="begun"}': "3",
        '{state="lost"}': "1",
        '{state="done"}': "1",
        '{state="failed"}': "1",
    }
    assert counted['marginal_sdg_chunks_total{step="add"}'] == "3"
    assert counted['marginal_sdg_bytes_total{step="add",way="in"}'] == "8"
    assert int(counted['marginal_sdg_bytes_total{step="add",way="out"}']) > 64
    assert float(counted['marginal_sdg_cpu_seconds_total{step="other"}']) > 0
    assert sum(line.startswith("# TYPE") and line.endswith(" counter") for line in lines) == 4


# --- an asker that is started again ----------------------------------------------------------------


def another(role, folder, name=NAME, over=False):
    """A process of the asker's; it leaves without a word unless it is left as a context."""
    return Steady(role.connect, name, TIMEOUT, Told(folder, over))


def die(asker):
    asker._channel.close()


def test_what_an_earlier_process_was_told_is_not_asked_again(role, tmp_path):
    first = another(role, tmp_path / "told")
    answers = [first.ask(1, [b"abc"]), first.ask(1, [b"d"])]
    die(first)
    with another(role, tmp_path / "told") as second:
        assert [second.ask(1, [b"not looked at"]), second.ask(1, iter(()))] == answers
        assert second.ask(1, [b"ef"])[3] == b"6"
    assert [chunk for came in role.came for chunk in came] == [NAME, b"abc", b"d", NAME, b"ef"]


def test_an_answer_that_the_asker_had_not_on_disk_is_sent_again_and_not_made_again(role, tmp_path):
    class Dying(Told):
        def keep(self, number, answer):
            gone.append(answer)
            raise KeyboardInterrupt

    gone = []
    first = Steady(role.connect, NAME, TIMEOUT, Dying(tmp_path / "told"))
    with pytest.raises(KeyboardInterrupt):
        first.ask(1, [b"abc"])
    die(first)
    with another(role, tmp_path / "told") as second:
        assert second.ask(1, [b"abc"]) == gone[0]


def test_of_a_question_that_was_half_sent_the_rest_is_sent(role, tmp_path):
    """A later process makes all chunks again, as they may depend on each other, and sends what is not there."""

    def chunks(dying):
        for number in range(40):
            if dying and number == 30:
                role.has_taken(1 + 20)
                raise KeyboardInterrupt
            made.append(number)
            yield bytes([number])

    made = []
    first = another(role, tmp_path / "told")
    with pytest.raises(KeyboardInterrupt):
        first.ask(1, chunks(dying=True))
    die(first)
    with another(role, tmp_path / "told") as second:
        assert second.ask(1, chunks(dying=False))[3] == b"40"
    assert made == [*range(30), *range(40)]
    before, after = (came[1:] for came in role.came)
    assert [*before, *after] == [bytes([number]) for number in range(40)] and len(before) >= 20


def test_what_is_passed_on_is_asked_when_it_is_wanted(role, tmp_path):
    first = another(role, tmp_path / "told")
    passed = [next(first.stream(1, [b"abc"]))]
    die(first)
    second = another(role, tmp_path / "told")
    answer = list(second.stream(1, [b"abc"]))
    assert answer[:1] == passed and answer[3] == b"3"
    second.ask(1, [b"d"])
    die(second)
    third = another(role, tmp_path / "told")
    third.stream(1, [b"abc"])  # somebody else has it already
    assert third.ask(1, [b"d"])[3] == b"4"
    with third:
        assert third.ask(1, [b"e"])[3] == b"5"


def test_what_is_passed_on_goes_on_where_it_broke(role):
    with steady(role) as asker:
        answer = asker.stream(1, [b"abc"])
        passed = [next(answer)]
        role.again()
        passed += answer
        assert [passed[0], passed[3]] == [b"\1", b"3"] and len(passed) == 5
        assert asker.ask(1, [b"d"])[:3] == passed[:3]


def test_an_asker_hears_that_the_role_no_longer_has_the_session(role, tmp_path):
    first = another(role, tmp_path / "told")
    first.ask(1, [b"abc"])
    die(first)
    role.ended()
    rmtree(tmp_path / "store" / "session")
    second = another(role, tmp_path / "told")
    assert second.ask(1, [b"abc"])[3] == b"3"
    match = r"^service: is there without the session, which it keeps \(with --store\) for its --timeout after a break"
    with pytest.raises(ProtocolError, match=match), second:
        second.ask(1, [b"d"])
    keeping_none = Role(None)
    third = another(keeping_none, tmp_path / "told")
    third.ask(1, [b"abc"])
    with pytest.raises(ProtocolError, match=match), third:
        third.ask(1, [b"d"])
    keeping_none.stop()


def test_an_asker_with_an_earlier_state_is_refused(role, tmp_path):
    asker = another(role, tmp_path / "told")
    for question in (b"abc", b"d", b"e"):
        asker.ask(1, [question])
    die(asker)
    for number in (1, 2):
        (tmp_path / "told" / f"{number}.answer").unlink()
    later = another(role, tmp_path / "told")
    later.ask(1, [b"abc"])
    with (
        pytest.raises(ProtocolError, match=r"^service: has answered more than is in this folder, an earlier copy"),
        later,
    ):
        later.ask(1, [b"other"])


def test_an_asker_waits_for_a_role_that_is_not_back_yet(role, tmp_path):
    first = another(role, tmp_path / "told")
    first.ask(1, [b"abc"])
    die(first)
    role.ended()
    role.stop()
    second = another(role, tmp_path / "told")
    assert second.ask(1, [b"abc"])[3] == b"3"
    role.start()
    with second:
        assert second.ask(1, [b"d"])[3] == b"4"
    role.stop()
    second = another(role, tmp_path / "told")
    second._patience = 0.1
    second.ask(1, []), second.ask(1, [])
    with pytest.raises(LostError, match=r"^service: no connection .*; it did not come back within 0.1 s$"):
        second.ask(1, [])
    with pytest.raises(LostError, match=r"^service: no connection .*start it first$"):
        another(role, tmp_path / "new")


def test_an_asker_that_has_heard_all_needs_nobody(role, tmp_path):
    with another(role, tmp_path / "told") as first:
        answer = first.ask(1, [b"abc"])
    role.stop()
    with another(role, tmp_path / "told", over=True) as second:
        assert second.ask(1, []) == answer
