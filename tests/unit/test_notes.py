"""What a data holder keeps of the session that it asks in: the same bits for the same questions, and for no others."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from marginal_sdg import FHAIM, Workload
from marginal_sdg.backends.distance import Distance
from marginal_sdg.backends.noted import NotedVault
from marginal_sdg.backends.vault import Ballot, ClearVault
from marginal_sdg.crypto import folder, records
from marginal_sdg.crypto.channel import LostError
from marginal_sdg.crypto.notes import Notes
from marginal_sdg.errors import BudgetError, ConfigError, DataError, ProtocolError
from marginal_sdg.schedule import Step

TERMS = {"marginal_sdg": "1", "epsilon": "1.0", "domain": "a" * 64}
TABLE = [b"header", b"codes"]


class KilledError(BaseException):
    """What kill -9 is to a process."""


def keys():
    return os.urandom(32)


def begun(notes, terms=TERMS, table=TABLE):
    notes.begin(terms, table, keys)
    return notes.key("noise")


@pytest.fixture
def session(tmp_path):
    """A folder whose process was killed, and the bits that it had."""
    with pytest.raises(KilledError), Notes(tmp_path / "notes") as notes:
        bits = begun(notes)
        notes.note([b"question", b"noise"])
        notes.told("server").keep(0, [b"an", b"answer"])
        raise KilledError
    return tmp_path / "notes", bits


def test_a_process_that_is_started_again_has_the_same_bits_and_answers(session):
    root, bits = session
    with Notes(root) as notes:
        assert notes.found and begun(notes) == bits
        notes.note([b"question", b"noise"])
        told = notes.told("server")
        assert told.begun and told.answer(0) == [b"an", b"answer"] and told.answer(1) is None
        assert not notes.told("key holder").begun and not told.over
        assert len({bits, notes.key("server"), notes.key("ledger")}) == 3


def test_nothing_is_left_of_a_session_that_is_over(session):
    root, bits = session
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in [root, *root.rglob("*")]} == {0}
    with Notes(root) as notes:
        begun(notes)
    assert list(root.iterdir()) == [root / ".lock"]
    with Notes(root) as notes:
        assert not notes.found and begun(notes) != bits


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (LostError(None, "gone"), True),
        (OSError(28, "no space"), True),
        (KeyboardInterrupt(), True),
        (ConfigError("identity"), True),
        (ProtocolError("refused"), False),
        (BudgetError("spent"), False),
        (DataError("wrong"), False),
    ],
)
def test_it_is_kept_unless_an_error_ends_it(session, error, left):
    root, bits = session
    with pytest.raises(type(error)), Notes(root) as notes:
        begun(notes)
        raise error
    with Notes(root) as notes:
        assert (begun(notes) == bits) == left


def test_where_nobody_has_answered_there_is_nothing_to_go_on_with(tmp_path):
    for error in (LostError(None, "not there yet"), ConfigError("identity"), ProtocolError("refused")):
        with pytest.raises(type(error)), Notes(tmp_path / "notes") as notes:
            assert not notes.found
            begun(notes)
            raise error


@pytest.mark.parametrize("name", ["seed", "title"])
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_its_beginning_it_begins_again(tmp_path, monkeypatch, name, after):
    """Nothing was asked in it."""
    replace, bits = records.replace_file, []

    def dying(path, parts):
        if path.name == name and not after:
            raise KilledError
        replace(path, parts)
        if path.name == name:
            bits.append(path.parent.joinpath("seed").read_bytes())
            raise KilledError

    monkeypatch.setattr(records, "replace_file", dying)
    with pytest.raises(KilledError), Notes(tmp_path / "notes") as notes:
        begun(notes)
    monkeypatch.setattr(records, "replace_file", replace)
    with Notes(tmp_path / "notes") as notes:
        found = notes.found
        assert found == ((name, after) == ("title", True))
        begun(notes)
        seed = (tmp_path / "notes" / "session" / "seed").read_bytes()
        assert [seed] == bits if found else seed not in bits


@pytest.mark.parametrize(
    ("terms", "table", "match"),
    [
        (TERMS | {"epsilon": "2.0"}, TABLE, r"^epsilon: is not the one of the session in .* \(1.0, 2.0\); go on with"),
        (TERMS | {"marginal_sdg": "2"}, TABLE, r"^marginal_sdg: is not the one of .* \(1, 2\)"),
        (TERMS | {"domain": "b" * 64}, TABLE, r"^domain: is not the one"),
        (TERMS | {"more": "x"}, TABLE, r"^more: .*\(None, x\)"),
        ({name: TERMS[name] for name in ("marginal_sdg", "domain")}, TABLE, r"^epsilon: .*\(1.0, None\)"),
        (TERMS, [b"header", b"coded"], r"^table: is not the one of the session in .*; go on with the same, or name"),
    ],
)
def test_what_is_not_the_same_is_named_and_the_session_stays(session, terms, table, match):
    root, bits = session
    with pytest.raises(ConfigError, match=match), Notes(root) as notes:
        begun(notes, terms, table)
    with Notes(root) as notes:
        assert begun(notes) == bits


def test_a_copy_is_refused_and_a_folder_that_was_moved_is_not(session):
    root, bits = session
    copy, moved = root.with_name("copy"), root.with_name("moved")
    shutil.copytree(root, copy)
    with pytest.raises(ConfigError, match=r"^store: .*copy is a copy of another folder"), Notes(copy) as notes:
        begun(notes)
    root.rename(moved)
    with Notes(moved) as notes:
        assert begun(notes) == bits


def test_two_processes_at_once_are_refused(session):
    root, _ = session
    code = "import sys; from marginal_sdg.crypto.notes import Notes\nwith Notes(sys.argv[1]): print('here'); input()"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"here\n"
        with pytest.raises(ConfigError, match=r"^store: another process has a session in the same folder"), Notes(root):
            pass
        process.kill()
    with Notes(root) as notes:
        assert notes.found
    with pytest.raises(ConfigError, match=r"^notes: are used in a with block"):
        begun(notes)


def test_a_folder_of_another_role_or_that_is_none_is_refused(tmp_path):
    other = folder.Folder(tmp_path / "role")
    other.begin([b"title"], keys())
    with pytest.raises(ConfigError, match=r"^store: .* has the session of another role"), Notes(other.root) as notes:
        begun(notes)
    assert other.title() == [b"title"]
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^store: .*file cannot be used"):
        Notes(tmp_path / "file")


@pytest.mark.parametrize("other", [[b"question", b"other noise"], [b"questionnoise"], [b"another", b"noise"]])
def test_another_question_is_not_asked_in_the_place_of_one(session, other):
    root, _ = session
    match = r"^question 0: is not the one that was asked before, .*; start another session$"
    with pytest.raises(ProtocolError, match=match), Notes(root) as notes:
        begun(notes)
        notes.note(other)
    assert not (root / "session").exists()


def test_a_question_has_all_that_its_noise_is_added_to(table, tmp_path):
    """Whatever changes of it is noticed before the vault is asked."""
    vault, domain = ClearVault(table), table.domain
    cliques = tuple((name,) for name in domain.names[:2])
    counts = tuple(np.arange(domain.size(clique)) for clique in cliques)
    ones, distance = np.ones(2, dtype=np.int64), Distance("l2", 300)
    ballot = Ballot(cliques, counts, ones, ones, distance)
    step = Step(0, Fraction(9), Fraction(1, 4))
    selections = [
        (ballot, [ones], 9, step),
        (Ballot(cliques[::-1], counts[::-1], ones, ones, distance), [ones], 9, step),
        (Ballot(cliques, (counts[0] + 1, counts[1]), ones, ones, distance), [ones], 9, step),
        (Ballot(cliques, counts, 2 * ones, ones, distance), [ones], 9, step),
        (Ballot(cliques, counts, ones, 2 * ones, distance), [ones], 9, step),
        (Ballot(cliques, counts, ones, ones, Distance("l1_exact", 300)), [ones], 9, step),
        (ballot, [2 * ones], 9, step),
        (ballot, [ones], 8, step),
        (ballot, [ones], 9, Step(0, Fraction(9), Fraction(1, 2))),
    ]
    measured = [
        (cliques, [counts], step),
        (cliques[::-1], [counts[::-1]], step),
        (cliques, [[counts[0] + 1, counts[1]]], step),
        (cliques, [counts], Step(0, Fraction(8), Fraction(1, 4))),
    ]
    for name, questions in (("select", selections), ("measure", measured)):
        for number, asked in enumerate(questions):
            root = tmp_path / f"{name}{number}"
            with pytest.raises(KilledError), Notes(root) as notes:
                begun(notes)
                first = getattr(NotedVault(vault, notes), name)(*questions[0])
                raise KilledError
            with Notes(root) as notes:
                begun(notes)
                noted = getattr(NotedVault(vault, notes), name)
                if asked is questions[0]:
                    again = noted(*asked)
                    np.testing.assert_equal(again, first)
                else:
                    with pytest.raises(ProtocolError, match="question 0"):
                        noted(*asked)


def test_a_fit_keeps_notes_only_of_a_session_with_others(table, tmp_path):
    pairs = Workload(table.domain, tuple(combinations(table.domain.names, 2)))
    fhaim = FHAIM(table.domain, workload=pairs, max_records=5000)
    match = r"^notes: keep a session with server and keyholder"
    with pytest.raises(ConfigError, match=match), Notes(tmp_path / "notes") as notes:
        fhaim.fit(table, notes=notes)
