"""The one door to OpenFHE: imported on use, one OpenMP thread, and no randomness after a fork."""

from __future__ import annotations

import importlib
import os
import sys
from functools import cache
from typing import Any

from marginal_sdg.errors import ProtocolError

_drew_in: set[int] = set()  # the process that has drawn OpenFHE randomness; a forked child inherits its parent's


@cache
def openfhe() -> Any:
    """The ``openfhe`` module, which has no type stubs.

    ``OMP_NUM_THREADS=1`` is set before the import: OpenMP threads that spin on a busy host make encryption up to 80
    times slower, and the parties run threads of their own. Raises ``ProtocolError`` where it cannot be imported.
    """
    if "openfhe" not in sys.modules:
        os.environ["OMP_NUM_THREADS"] = "1"
    try:
        return importlib.import_module("openfhe")
    except ImportError as error:
        raise ProtocolError(
            "openfhe: cannot be imported; install marginal-sdg[fhe] under Python 3.10 on Debian 12 or Ubuntu 22.04, "
            f"or Python 3.12 on Ubuntu 24.04 (this is Python {sys.version_info.major}.{sys.version_info.minor})"
        ) from error


def before_randomness() -> None:
    """Call before whatever makes OpenFHE draw: keys and encryptions.

    OpenFHE's generator lives in the process. After a fork, parent and child would make byte-identical ciphertexts,
    which breaks their secrecy without a sign: then ``ProtocolError``.
    """
    _drew_in.add(os.getpid())
    if len(_drew_in) > 1:
        raise ProtocolError(
            "openfhe: this process was forked from one that had made keys or ciphertexts, and would repeat its random "
            "numbers; start it with 'spawn', or use threads"
        )
