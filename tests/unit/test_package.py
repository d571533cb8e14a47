"""The package as a whole: what it exports, and what it costs to import."""

from __future__ import annotations

import subprocess
import sys

import marginal_sdg


def test_every_public_name_can_be_had():
    for name in marginal_sdg.__all__:
        assert getattr(marginal_sdg, name).__name__ == name
    assert set(marginal_sdg.__all__) == set(marginal_sdg._PUBLIC)


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["jax", "mbi", "matplotlib", "sklearn", "umap", "scipy", "pandas", "numpy", "pyarrow", "pydantic"]
    code = f"import sys, marginal_sdg; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_estimators_load_no_optional_package():
    optional = ["jax", "mbi", "matplotlib", "sklearn", "umap", "joblib"]
    code = f"import sys; from marginal_sdg import FLAIM; print([m for m in {optional} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_curator_needs_no_cipher():
    code = "import sys; from marginal_sdg import AIM; print('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
