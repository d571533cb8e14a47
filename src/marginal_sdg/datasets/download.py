"""Fetching public benchmark tables through scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from marginal_sdg.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def fetch(recipe: dict[str, Any], columns: list[str], drop: list[str]) -> pd.DataFrame:
    """A raw table under the names ``columns``; a source without the dropped columns is as good.

    Parameters
    ----------
    recipe: ``{"openml": id}``, ``{"sklearn": "covtype"}`` or ``{"sklearn": "kddcup99"}``, and perhaps
        ``"strip": {column: end}``, text to cut off the end of a column's values.
    columns: the raw columns' names, in the source's order.
    drop: those of them that are not used.

    Raises
    ------
    OSError: no connection. DataError: the source has other columns than expected.
    """
    from sklearn import datasets

    if "openml" in recipe:
        frame = datasets.fetch_openml(data_id=recipe["openml"], as_frame=True, parser="auto").frame
    elif recipe["sklearn"] == "covtype":
        frame = datasets.fetch_covtype(as_frame=True).frame
    else:
        frame = datasets.fetch_kddcup99(percent10=True, as_frame=True).frame
    kept = [column for column in columns if column not in drop]
    for names in (columns, kept):
        if len(names) == frame.shape[1]:
            tidy = _tidy(frame.set_axis(names, axis=1))
            for name, end in recipe.get("strip", {}).items():
                tidy[name] = tidy[name].str.rstrip(end)
            return tidy
    raise DataError(f"the download has {frame.shape[1]} columns, expected {len(columns)}; its source has changed")


def _tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Text as in UCI's files: no blanks around it, "?" for missing."""
    import pandas as pd

    tidy = {}
    for name, column in frame.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(object)
        if pd.api.types.is_numeric_dtype(column.dtype):
            tidy[name] = column
            continue
        text = column.map(lambda x: x.decode() if isinstance(x, bytes) else x)
        numbers = pd.to_numeric(text, errors="coerce")
        if numbers.notna().all():
            tidy[name] = numbers
        else:
            tidy[name] = text.astype(object).where(text.notna(), "?").map(lambda x: str(x).strip())
    return pd.DataFrame(tidy)
