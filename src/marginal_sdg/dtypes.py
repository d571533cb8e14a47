"""The pandas types of the input, for synthetic rows that look like it.

A type is kept only where it follows from the declaration and the table's schema. NumPy integers become floats as soon
as one is missing, so in a column that may have missing values they say something about the records, and are not kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from marginal_sdg.domain import Attribute, Domain


def kept_dtypes(frame: pd.DataFrame, domain: Domain) -> dict[str, Any]:
    """The types of those columns whose type may be kept, by name."""
    found = {attribute.name: _kept(frame[attribute.name].dtype, attribute) for attribute in domain.attributes}
    return {name: dtype for name, dtype in found.items() if dtype is not None}


def with_dtypes(frame: pd.DataFrame, dtypes: dict[str, Any]) -> pd.DataFrame:
    """Decoded rows with the types of the input."""
    return frame.astype(dtypes) if dtypes else frame


def _kept(dtype: Any, attribute: Attribute) -> Any:
    if isinstance(dtype, pd.CategoricalDtype):
        labels = attribute.categories
        return None if labels is None else pd.CategoricalDtype(list(labels), ordered=dtype.ordered)
    kinds = pd.api.types
    gaps = attribute.missing == "category"
    kind = attribute.kind
    if kind == "integer" and kinds.is_integer_dtype(dtype) and (not gaps or kinds.is_extension_array_dtype(dtype)):
        values = attribute.categories or attribute.bounds
        limits = np.iinfo(getattr(dtype, "numpy_dtype", dtype))
        return dtype if limits.min <= min(values) and max(values) <= limits.max else None  # type: ignore[operator]
    if kind == "boolean" and kinds.is_bool_dtype(dtype) and (not gaps or kinds.is_extension_array_dtype(dtype)):
        return dtype
    if kind == "floating" and kinds.is_float_dtype(dtype):
        return dtype
    if kind == "string" and isinstance(dtype, pd.StringDtype):
        return dtype
    if kind in ("date", "datetime") and kinds.is_datetime64_dtype(dtype):
        limit = 9.2e9 if "ns" in str(dtype) else np.inf  # seconds around 1970 that fit into nanoseconds
        day = 86_400 if kind == "date" else 1
        return dtype if max(map(abs, attribute.bounds)) * day < limit else None
    return None
