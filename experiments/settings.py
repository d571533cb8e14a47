"""Settings of a script: a YAML file with exactly the keys that the script declares, each checked before it starts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from marginal_sdg.errors import ConfigError, MarginalSDGError
from marginal_sdg.privacy.budget import Budget


class Settings(BaseModel):
    """What a script reads from its file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BudgetSettings(Settings):
    """One privacy budget; strings are taken as numbers, because YAML reads 1e-5 as a string."""

    epsilon: float = Field(gt=0, le=100)
    delta: float = Field(gt=0, lt=1)

    @property
    def budget(self) -> Budget:
        """The same as the ledger takes it."""
        return Budget(self.epsilon, self.delta)


Given = TypeVar("Given", bound=Settings)


def load_settings(path: Path, kind: type[Given]) -> Given:
    """Read a file of settings. Raises ConfigError, one line that names file, key and value."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({type(error).__name__})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be lines of 'key: value'; the keys are {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {where}: {first['msg']}, got {first['input']!r}") from None


def one_line_errors(main: Callable[[], None]) -> None:
    """Run a script; bad input is one line and exit code 2."""
    try:
        main()
    except MarginalSDGError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
