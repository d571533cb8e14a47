"""Where files are: data that comes with the package, the user's data folder, and the cache."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from marginal_sdg.errors import DataError


def shipped_folder() -> Path:
    """The committed data: ``marginal_sdg/data`` in a wheel, ``data`` at the root of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "data", package.parents[1] / "data"):
        if (folder / "datasets.yaml").is_file():
            return folder
    raise DataError("the package's data folder is missing; install marginal-sdg again")


def shipped_checksum(name: str) -> str:
    """The recorded sha256 of a file in the shipped folder."""
    recorded: dict[str, str] = json.loads((shipped_folder() / "checksums.json").read_text(encoding="utf-8"))
    return recorded[name]


def user_folder() -> Path | None:
    """The folder that ``$MARGINAL_SDG_DATA`` names, if it is set."""
    named = os.environ.get("MARGINAL_SDG_DATA")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(f"$MARGINAL_SDG_DATA names {named!r}, which is not a folder")
    return folder


def cache_folder() -> Path:
    """The user's cache: ``$MARGINAL_SDG_CACHE``, or the platform's place for caches. It may not exist yet."""
    named = os.environ.get("MARGINAL_SDG_CACHE")
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "marginal_sdg"


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that a reader, or a second writer, sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        temporary = Path(file.name)
        try:
            write(file)
        except BaseException:
            file.close()
            temporary.unlink()
            raise
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)  # as a file that is written directly
    temporary.replace(path)


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
