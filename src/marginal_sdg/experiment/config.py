"""A config file: flat YAML, strict, where a list is a sweep axis. Checked in full before any data is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from marginal_sdg.attribute import nearest
from marginal_sdg.errors import ConfigError
from marginal_sdg.experiment.params import NAMES, RunParams, allowed, dataset_names

SHEET_KEYS = ("title", "seeds", "figure", "paper", "quick")
KEYS = (*NAMES, *SHEET_KEYS)
MAX_SEEDS = 10_000


@dataclass(frozen=True)
class Config:
    """A sweep: ``axes`` maps every parameter to its values; the rest says what to do with the runs.

    ``figure`` is the parameter on the figure's horizontal axis; ``paper`` a table of published numbers.
    """

    name: str
    axes: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...]
    title: str
    figure: str | None
    paper: str | None

    def to_yaml(self) -> str:
        """The config in full, defaults and overrides included: enough to run it again."""
        values = {key: list(axis) if len(axis) > 1 else axis[0] for key, axis in self.axes.items()}
        sheet = {"title": self.title, "figure": self.figure, "paper": self.paper, "seeds": list(self.seeds)}
        given = {key: value for key, value in (sheet | values).items() if value is not None}
        text: str = yaml.safe_dump(given, sort_keys=False, default_flow_style=None, width=110)
        return text


def find_config(name: str, folder: Path) -> Path:
    """``name`` as a path, or as a file of ``folder`` (with or without ``.yaml``)."""
    for path in (Path(name), folder / name, folder / f"{name}.yaml"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    hint = nearest(name.removesuffix(".yaml"), known)
    raise ConfigError(f"config: no file {name!r}{hint}; configs/ has {', '.join(known) or 'none'}")


def load_config(path: Path, overrides: Sequence[str] = (), *, quick: bool = False) -> Config:
    """Read and check a config file and ``key=value`` overrides. Raises ConfigError, one line.

    ``quick`` applies the overrides that the file itself has under that key first: fewer seeds and points.
    """
    try:
        values = _parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name}: cannot be read ({type(error).__name__})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path.name}: must be a list of 'key: value' lines")
    shorter = values.pop("quick", [])
    if not isinstance(shorter, list) or not all(isinstance(override, str) for override in shorter):
        raise ConfigError(f"{path.name}: quick = {shorter!r} is not allowed; give a list such as [seeds=2]")
    if quick and not shorter:
        raise ConfigError(f"{path.name}: has no quick profile; add a line such as quick: [seeds=2]")
    for override in [*(shorter if quick else []), *overrides]:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override}: must be key=value, such as --set epsilon=5")
        values[key.strip()] = _parse(text, f"--set {override}")
    return _checked(values, path)


def _checked(values: Mapping[str, Any], path: Path) -> Config:
    for key in values:
        if key not in KEYS or key == "quick":
            hint = nearest(key, KEYS) or f"; the keys are {', '.join(KEYS)}"
            raise ConfigError(f"{path.name}: unknown key {key!r}{hint}")
    for key in ("dataset", "method"):
        if key not in values:
            raise ConfigError(f"{path.name}: {key} is missing; give {allowed(key)}")
    axes = {}
    for name in NAMES:
        default = RunParams.model_fields[name].default
        axes[name] = _axis(name, values[name], path.name) if name in values else (default,)
    sheet = {key: values.get(key) for key in ("title", "figure", "paper")}
    for key, value in sheet.items():
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{path.name}: {key} = {value!r} is not allowed; give a text")
    if sheet["figure"] is not None and sheet["figure"] not in NAMES:
        near = nearest(sheet["figure"], NAMES)
        raise ConfigError(f"{path.name}: figure = {sheet['figure']!r} is not allowed; give a parameter{near}")
    seeds = _seeds(values.get("seeds", 1), path.name)
    return Config(path.stem, axes, seeds, sheet["title"] or path.stem, sheet["figure"], sheet["paper"])


def _axis(name: str, value: Any, where: str) -> tuple[Any, ...]:
    """The values of one parameter, each valid, none twice."""
    options = value if isinstance(value, list) else [value]
    if not options:
        raise ConfigError(f"{where}: {name} is an empty list; give {allowed(name)}")
    axis: list[Any] = []
    for option in options:
        try:
            checked = _valid(name, option)
        except ValueError:  # pydantic's ValidationError is one
            hint = nearest(option, allowed(name).removeprefix("one of ").split(", "))
            message = f"{where}: {name} = {option!r} is not allowed; give {allowed(name)}{hint}"
            raise ConfigError(message) from None
        if checked in axis:
            raise ConfigError(f"{where}: {name} lists {option!r} twice; give each value once")
        axis.append(checked)
    return tuple(axis)


def _valid(name: str, value: Any) -> Any:
    """``value`` as parameter ``name`` keeps it; ValueError if it may not."""
    if value is None and RunParams.model_fields[name].default is not None:
        raise ValueError("None means 'does not apply': it is worked out, never given")
    other = {"dataset": dataset_names()[0], "method": "AIM"}
    return getattr(RunParams.model_validate(other | {name: value}), name)


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    fix = f"give a whole number from 1 to {MAX_SEEDS} (n means 0 to n-1) or a list of distinct whole numbers"
    seeds = list(range(min(value, MAX_SEEDS + 1))) if type(value) is int else value
    valid = isinstance(seeds, list) and 1 <= len(seeds) <= MAX_SEEDS
    if not valid or any(type(seed) is not int or not 0 <= seed < 2**63 for seed in seeds):
        raise ConfigError(f"{where}: seeds = {value!r} is not allowed; {fix}")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{where}: seeds lists a seed twice; {fix}")
    return tuple(seeds)


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice and reads 1e-5 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                problem = f"key {key!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            keys.append(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{where}:{line} is not valid YAML: {error.problem}") from None
    except yaml.YAMLError:
        raise ConfigError(f"{where}: is not valid YAML") from None
