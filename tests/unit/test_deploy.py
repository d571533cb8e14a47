"""Container files and process files of FHAIM's roles: they start what there is, with a folder for what has to stay."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

import pytest

from marginal_sdg import roles

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
ROLES = {"server": "server", "key-holder": "keyholder", "data-holder": "holder"}
STARTED = ["python", "-m", "marginal_sdg.roles"]


def instructions(path: Path) -> dict[str, str]:
    """The last instruction of each kind; several COPY are one."""
    lines = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8")).splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            found[name] = f"{found['COPY']} {rest}" if name == "COPY" in found else rest
    return found


def container(role: str) -> tuple[list[str], str]:
    """The command that a container runs, and the folder that outlives it."""
    found = instructions(DEPLOY / f"{role}.Containerfile")
    return json.loads(found["ENTRYPOINT"]) + json.loads(found["CMD"]), found["VOLUME"]


def process(role: str) -> tuple[list[str], str]:
    """The same of a process of systemd."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    text = (DEPLOY / f"{role}.service").read_text(encoding="utf-8")
    unit.read_string(re.sub(r"\\\n\s*", " ", text))
    service = unit["Service"]
    return shlex.split(service["ExecStart"]), f"/var/lib/{service['StateDirectory']}"


def test_every_role_has_both():
    assert {path.name for path in DEPLOY.iterdir()} == {
        f"{role}.{kind}" for role in ROLES for kind in ("Containerfile", "service")
    }


@pytest.mark.parametrize("read", [container, process])
@pytest.mark.parametrize("role", ROLES)
def test_the_command_of_a_role_is_one_and_keeps_what_has_to_stay(role, read):
    (program, *started), words, folder = _split(*read(role))
    assert [Path(program).name, *started] == STARTED
    options = roles._parser().parse_args(words)
    assert options.command == ROLES[role]
    assert role in str(options.identity) or options.identity == Path("/identity")
    stays = options.ledger.parent if role == "data-holder" else options.store
    assert str(stays) == folder
    assert options.store.is_relative_to(folder)
    if role != "data-holder":
        assert options.metrics == int(options.listen.rpartition(":")[2]) + 2000


def _split(command: list[str], folder: str) -> tuple[list[str], list[str], str]:
    return command[:3], command[3:], folder


@pytest.mark.parametrize("role", ROLES)
def test_a_container_has_what_it_copies_and_shows_the_port_that_it_listens_at(role):
    found = instructions(DEPLOY / f"{role}.Containerfile")
    command, _ = container(role)
    options = roles._parser().parse_args(command[3:])
    assert options.listen == f"0.0.0.0:{found['EXPOSE']}"
    sources = [word for word in found["COPY"].split() if not word.startswith("/")]
    assert sources and all((ROOT / source).exists() for source in sources)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (extras,) = re.findall(r"/source\[(.+?)\]", found["RUN"])
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras.split(","))
    if role == "data-holder":
        assert "HEALTHCHECK" not in found
    else:
        check = json.loads(found["HEALTHCHECK"].removeprefix("CMD "))
        assert f"127.0.0.1:{options.metrics}/metrics" in check[2] and compile(check[2], role, "exec")


def test_a_command_that_is_none_is_noticed():
    with pytest.raises(SystemExit):
        roles._parser().parse_args(["server", "--store"])
