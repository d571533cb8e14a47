"""The public domain: which attributes a table has and which values each may take.

A domain is declared by people, from public knowledge (a code book, the law, a unit's range). It is never
inferred from private rows behind the user's back: bounds and categories read off a table leak its records.
``draft_domain`` (``draft.py``) writes a first version to review, and says what it read off the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from marginal_sdg.attribute import Attribute, Label, is_integer, nearest, plain
from marginal_sdg.errors import DomainError

__all__ = ["Attribute", "Clique", "Domain", "Label", "nearest"]

Clique = tuple[str, ...]
"""Attribute names, each once, in domain order."""


@dataclass(frozen=True)
class Domain(Mapping[str, Attribute]):
    """Attributes in order; behaves as a mapping from name to ``Attribute``.

    Examples
    --------
    >>> domain = Domain.from_yaml("{age: {lower: 18, upper: 99, bins: 27}, sex: {categories: [Female, Male]}}")
    >>> domain.names, domain.shape, domain.size(["sex"])
    (('age', 'sex'), (27, 2), 2)

    Raises
    ------
    DomainError: two attributes have one name.
    """

    attributes: tuple[Attribute, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", tuple(self.attributes))
        for attribute in self.attributes:
            if not isinstance(attribute, Attribute):
                raise DomainError(f"a Domain is made of Attributes, got {type(attribute).__name__}")
        if len(self._positions) < len(self.attributes):
            twice = next(n for i, n in enumerate(self.names) if n in self.names[:i])
            raise DomainError(f"attribute {twice!r} is declared twice")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Attribute names, in order."""
        return tuple(attribute.name for attribute in self.attributes)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of codes of each attribute."""
        return tuple(attribute.size for attribute in self.attributes)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.attributes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> Attribute:
        return self.attributes[self.index(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    def index(self, name: str) -> int:
        """Position of an attribute; DomainError when unknown."""
        try:
            return self._positions[name]
        except (KeyError, TypeError):
            raise DomainError(f"unknown attribute {name!r}{nearest(name, self.names)}") from None

    def clique(self, names: str | Iterable[str]) -> Clique:
        """The names in domain order; DomainError when one is unknown or comes twice."""
        given = (names,) if isinstance(names, str) else tuple(names)
        positions = sorted(self.index(name) for name in given)
        if len(set(positions)) < len(positions):
            twice = next(name for i, name in enumerate(given) if name in given[:i])
            raise DomainError(f"attribute {twice!r} comes twice in a clique")
        return tuple(self.names[position] for position in positions)

    def size(self, clique: str | Iterable[str] | None = None) -> int:
        """Number of cells of a clique's marginal (1 for none), or of the whole domain; a Python int."""
        names = self.names if clique is None else self.clique(clique)
        return math.prod(self.shape[self.index(name)] for name in names)

    def project(self, names: str | Iterable[str]) -> Domain:
        """The domain of some attributes, in this domain's order."""
        return Domain(tuple(self[name] for name in self.clique(names)))

    @classmethod
    def from_shape(cls, shape: Mapping[str, int]) -> Domain:
        """Attributes with codes 0..n-1 as their categories, for tables that are coded already."""
        for name, size in shape.items():
            if not is_integer(plain(size)) or size < 1:
                raise DomainError(f"attribute {name!r}: size must be an integer of at least 1, got {size!r}")
        return cls(tuple(Attribute(name, categories=tuple(range(int(n)))) for name, n in shape.items()))

    @classmethod
    def from_dict(cls, declarations: Mapping[str, Mapping[str, Any]]) -> Domain:
        """Read ``{name: {categories: [...]} | {lower: .., upper: .., bins: ..}, ...}``."""
        if not isinstance(declarations, Mapping) or not declarations:
            raise DomainError("a domain file must map attribute names to declarations")
        return cls(tuple(Attribute.from_dict(name, d) for name, d in declarations.items()))

    @classmethod
    def from_yaml(cls, text: str) -> Domain:
        """Read a declaration in YAML."""
        import yaml

        try:
            return cls.from_dict(yaml.load(text, Loader=_unique_key_loader()))
        except yaml.YAMLError as error:
            where = getattr(error, "problem_mark", None)
            line = f" at line {where.line + 1}" if where else ""
            raise DomainError(f"not valid YAML{line}: {getattr(error, 'problem', error)}") from None

    @classmethod
    def from_json(cls, text: str) -> Domain:
        """Read a declaration in JSON."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise DomainError(f"not valid JSON at line {error.lineno}: {error.msg}") from None

    @classmethod
    def load(cls, path: str | Path) -> Domain:
        """Read a ``.yaml``, ``.yml`` or ``.json`` file; DomainError names the file."""
        path = Path(path)
        readers = {".yaml": cls.from_yaml, ".yml": cls.from_yaml, ".json": cls.from_json}
        if path.suffix not in readers:
            raise DomainError(f"{path}: a domain file ends in .yaml, .yml or .json")
        try:
            return readers[path.suffix](path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DomainError(f"{path}: cannot be read ({error.strerror})") from None
        except DomainError as error:
            raise DomainError(f"{path}: {error}") from None

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values, as ``from_dict`` reads them."""
        return {attribute.name: attribute.to_dict() for attribute in self.attributes}

    def to_yaml(self) -> str:
        """YAML text, as ``from_yaml`` reads it: one attribute a line where it fits."""
        import yaml

        def dump(*, allow_unicode: bool) -> str:
            style: dict[str, Any] = {"sort_keys": False, "width": 110, "default_flow_style": None}
            return str(yaml.safe_dump(self.to_dict(), allow_unicode=allow_unicode, **style))

        text = dump(allow_unicode=True)
        # YAML takes these for line ends, unless they are escaped
        return dump(allow_unicode=False) if set("\x85\u2028\u2029") & set(text) else text

    def save(self, path: str | Path, header: str = "") -> None:
        """Write a YAML or JSON file (by its ending); ``header`` becomes comment lines in YAML."""
        path = Path(path)
        if path.suffix == ".json":
            text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"
        elif path.suffix in (".yaml", ".yml"):
            text = "".join(f"# {line}\n" for line in header.splitlines()) + self.to_yaml()
        else:
            raise DomainError(f"{path}: a domain file ends in .yaml, .yml or .json")
        path.write_text(text, encoding="utf-8")

    def _repr_html_(self) -> str:
        from marginal_sdg.page import Page

        rows = [[a.name, a.size, _describe(a)] for a in self.attributes]
        return Page("").table(["attribute", "codes", "values"], rows, f"A domain of {len(rows)} columns.")._repr_html_()


def _describe(attribute: Attribute) -> str:
    if attribute.categories is not None:
        shown = ", ".join(str(label) for label in attribute.categories[:5])
        return shown + (", …" if len(attribute.categories) > 5 else "")
    unit = {"integer": "integers", "date": "dates", "datetime": "times"}.get(attribute.kind, "numbers")
    return f"{unit} in [{attribute.lower}, {attribute.upper}]"


def _unique_key_loader() -> Any:
    """A safe YAML loader that refuses a key given twice, which YAML readers else drop in silence."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            mapping: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key = self.construct_object(key_node, deep=True)
                if key in mapping:
                    raise DomainError(f"{key!r} comes twice at line {key_node.start_mark.line + 1}")
                mapping[key] = self.construct_object(value_node, deep=True)
            return mapping

    return Loader
