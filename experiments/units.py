"""Start the units of docs/deploy under systemd, as they are, and kill services in the middle of a run.

    sudo .venv/bin/python experiments/units.py [--out experiments/results/services]

Boots systemd in namespaces of its own on a throwaway copy of this machine (an overlay in memory), where it makes the
user, the environment and the certificates that the units ask for, and a network with nothing but a loopback. Needs
Linux, root, systemd, and FHAIM's extras in this environment. Writes ``units.md``.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
SERVICES = {"server": 9101, "key-holder": 9102, "data-holder": None}  # and where they show counters
OPERATOR = "operator"  # this script's name on the other machine
PATIENCE = 300  # seconds for all of it
CGROUPS = Path("/sys/fs/cgroup")

# Runs as process 1 of the namespaces, until systemd takes its place; $1: a folder, $2: where results go.
BOOT = """
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
for place in run tmp; do mount -t tmpfs tmpfs root/$place; done
mount -t proc proc root/proc
mount --rbind /dev root/dev
mount -t sysfs -o ro sysfs root/sys
if [ -e /sys/fs/cgroup/cgroup.controllers ]
then mount -t cgroup2 cgroup root/sys/fs/cgroup
else
    mount -t tmpfs tmpfs root/sys/fs/cgroup
    mkdir root/sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup root/sys/fs/cgroup/systemd
fi
mkdir root/run/results
mount --bind "$2" root/run/results
rm -f root/etc/systemd/system/*.wants/* root/lib/systemd/system/*.wants/*getty*
chroot root /bin/bash -e /run/results/prepare
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot root /lib/systemd/systemd --system --unit=deployment.target --log-target=null --show-status=0
"""

# What an operator does once: a user, an environment, one folder of identities for each role, the units.
PREPARE = """
useradd --system marginal-sdg
cp -a {base} /opt/python
echo /opt/python/lib > /etc/ld.so.conf.d/python.conf
ldconfig
/opt/python/bin/{python} -m venv --without-pip /opt/marginal-sdg
cp -a {packages}/. /opt/marginal-sdg/lib/{python}/site-packages
rm -f /opt/marginal-sdg/lib/{python}/site-packages/*marginal_sdg*.pth
mkdir -p /opt/source /etc/marginal-sdg /srv/marginal-sdg
cp -a {root}/src {root}/data /opt/source
echo /opt/source/src > /opt/marginal-sdg/lib/{python}/site-packages/source.pth
mkdir /srv/operator
cd /srv/operator
/opt/marginal-sdg/bin/python - <<END
from marginal_sdg import load_dataset
from marginal_sdg.crypto.identity import issue
from pathlib import Path
issue(Path("identities"), ["server", "key-holder", "data-holder-1", "data-holder-2"])
pima = load_dataset("diabetes_pima")
for place, folder in enumerate((".", "/srv/marginal-sdg")):
    pima.frame.iloc[place::2].to_csv(Path(folder) / "table.csv", index=False)
    pima.domain.save(Path(folder) / "domain.yaml")
END
cp -a identities/server identities/key-holder identities/data-holder-2 /etc/marginal-sdg
chown -R marginal-sdg /etc/marginal-sdg /srv/marginal-sdg
cp {root}/docs/deploy/*.service /etc/systemd/system
cat > /etc/systemd/system/deployment.target <<END
[Unit]
Wants=operator.service
END
cat > /etc/systemd/system/operator.service <<END
[Unit]
Wants={services}
[Service]
Type=oneshot
WorkingDirectory=/srv/operator
ExecStart=/opt/marginal-sdg/bin/python /run/results/operator
StandardOutput=file:/run/results/log
StandardError=inherit
ExecStopPost=/usr/bin/systemctl --force --force halt
END
"""


def operate() -> None:
    """Ask the services from inside, kill them in the first round, and write down what became of it all."""
    set_up_loopback()
    for port in (7101, 7102, 7103):
        wait_for(port)
    command = [sys.executable, "-m", "marginal_sdg.roles", "holder", "--csv", "table.csv", "--domain", "domain.yaml"]
    command += ["--server", "127.0.0.1:7101", "--keyholder", "127.0.0.1:7102", "--others", "127.0.0.1:7103"]
    command += ["--identity", "identities/data-holder-1", "--rounds", "4", "--timeout", "60"]
    said = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as asking:
        assert asking.stdout is not None
        for line in asking.stdout:
            said.append(line.strip())
            if "round 1 of" in line:
                subprocess.run(["systemctl", "kill", "--signal=KILL", *SERVICES], check=True)
    rows = [{"service": unit, **state(unit), "page of metrics": page(port)} for unit, port in SERVICES.items()]
    Path("/run/results/found.json").write_text(json.dumps({"outcome": said[-1], "rows": rows}))


def set_up_loopback() -> None:
    """That of a new network is down."""
    with socket.socket() as link:
        fcntl.ioctl(link, 0x8914, struct.pack("16sH14s", b"lo", 0x49, b""))  # SIOCSIFFLAGS: up, loopback, running


def wait_for(port: int) -> None:
    """Until somebody listens."""
    for _ in range(300):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise SystemExit(subprocess.check_output(["journalctl", "--no-pager", "--identifier=python"], text=True))


def state(unit: str) -> dict[str, str]:
    """What systemd says of a service."""
    command = ["systemctl", "show", unit, "--property=User", "--property=ActiveState", "--property=NRestarts"]
    shown = dict(line.split("=", 1) for line in subprocess.check_output(command, text=True).splitlines())
    return {"user": shown["User"], "state": shown["ActiveState"], "restarts": shown["NRestarts"]}


def page(port: int | None) -> str:
    """How many counters a role shows to its own machine."""
    if port is None:
        return ""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return f"{sum(not line.startswith(b'#') for line in answer)} counters"


def booted() -> dict[str, Any]:
    """What the operator has found."""
    with tempfile.TemporaryDirectory() as folder:
        machine, results = Path(folder) / "machine", Path(folder) / "results"
        machine.mkdir()
        results.mkdir()
        prepare = PREPARE.format(
            base=sys.base_prefix,
            packages=sysconfig.get_path("purelib"),
            python=f"python{sys.version_info.major}.{sys.version_info.minor}",
            root=ROOT,
            services=" ".join(f"{service}.service" for service in SERVICES),
        )
        (results / "prepare").write_text(prepare)
        shutil.copy(__file__, results / OPERATOR)
        group = (
            next((p for p in (CGROUPS / "systemd", CGROUPS) if (p / "cgroup.procs").exists()), CGROUPS) / "deployment"
        )
        group.mkdir(exist_ok=True)
        namespaces = ["--mount", "--pid", "--fork", "--kill-child=KILL", "--cgroup", "--uts", "--ipc", "--net"]
        command = ["unshare", *namespaces, "bash", "-ec", BOOT, "boot", str(machine), str(results)]
        try:
            subprocess.run(command, timeout=PATIENCE, preexec_fn=lambda: _enter(group), check=False)
            found: dict[str, Any] = json.loads((results / "found.json").read_text())
            return found
        except (subprocess.TimeoutExpired, FileNotFoundError):
            log = results / "log"
            raise SystemExit(f"units: nothing was found\n{log.read_text() if log.exists() else ''}") from None
        finally:
            _leave(group)


def _enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _leave(group: Path) -> None:
    """Remove what systemd has made there, once the last process has ended."""
    for inner in [*sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True), group]:
        for _ in range(100):
            with suppress(OSError):
                inner.rmdir()
                break
            time.sleep(0.1)


HEAD = """The units of docs/deploy, as they are, under systemd: booted on a throwaway copy of this machine, with one
user, a folder of identities for each role, and no network but a loopback. A second data holder asks them for
diabetes_pima (epsilon 1, 4 rounds); in the first round all three are killed with kill -9, and systemd starts them
again.

What the asking holder says last: {outcome}

"""


def main() -> None:
    """Boot, ask, kill, tell."""
    parser = argparse.ArgumentParser(description="Run the units of docs/deploy under systemd.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "services")
    options = parser.parse_args()
    from provenance import signed_table

    found = booted()
    head = HEAD.format(outcome=found["outcome"])
    version = subprocess.check_output(["systemctl", "--version"], text=True).split()[1]
    text = signed_table(head, found["rows"], "python experiments/units.py") + f"systemd {version}.\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "units.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    operate() if Path(__file__).name == OPERATOR else main()
