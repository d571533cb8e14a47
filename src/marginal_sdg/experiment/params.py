"""The parameters of one run: names, ranges and where each applies. The only list of them.

Names mirror the arguments of the estimators, of ``partition`` and of ``Workload``: a config *is* the call.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Method = Literal[
    "AIM",
    "MWEM+PGM",
    "FHAIM",
    "DistAIM",
    "FedNaiveBayes",
    "FLAIM (Random)",
    "NaiveFLAIM",
    "FLAIM (proxy only)",
    "FLAIM (oracle + combine)",
    "AugFLAIM (Oracle)",
    "AugFLAIM (Private)",
    "AugFLAIM (Census)",
    "DP-CTGAN",
    "Fed DP-CTGAN",
]
METHODS: tuple[str, ...] = get_args(Method)

# The FLAIM variant behind each federated method's name: the paper's, its ablations (Figure 2), and ours (census).
VARIANTS: dict[str, str] = {
    "FedNaiveBayes": "naive_bayes",
    "FLAIM (Random)": "random",
    "NaiveFLAIM": "naive",
    "FLAIM (proxy only)": "proxy",
    "FLAIM (oracle + combine)": "oracle_combined",
    "AugFLAIM (Oracle)": "oracle",
    "AugFLAIM (Private)": "private",
    "AugFLAIM (Census)": "census",
}
OF_CLIENTS = ("participation", "client_level", "clients", "partition", "partition_seed")  # of no use to a curator
OF_FLAIM = ("local_steps", "secagg", "cohort", "min_cohort", "noise")
OF_DISTAIM = ("weighting", "engine")
OF_FHAIM = ("score", "upload", "max_records", "engine", "release")
OF_CTGAN = ("epochs",)
OF_MARGINALS = ("calibration", "rounds", "gaussian_share", "generator", "max_model_mb", "records_per_person")
OF_ONE_TABLE = ("AIM", "MWEM+PGM", "FHAIM", "DP-CTGAN")
CTGANS = ("DP-CTGAN", "Fed DP-CTGAN")  # know nothing of OF_MARGINALS


def _known_partition(value: str) -> str:
    match = re.fullmatch(r"iid|cluster|dirichlet:(\d+(?:\.\d+)?(?:e-?\d+)?)", value)
    if match is None or (match[1] is not None and not float(match[1]) > 0):
        raise ValueError(value)
    return value


def _known_dataset(value: str) -> str:
    if value not in dataset_names():
        raise ValueError(value)
    return value


def dataset_names() -> tuple[str, ...]:
    """Names that ``load_dataset`` knows, and the generated ``synthfs``."""
    from marginal_sdg.datasets.registry import DATASETS

    return (*sorted(DATASETS), *(() if "synthfs" in DATASETS else ("synthfs",)))


Seed = Annotated[int, Field(ge=0, le=10**9)] | Literal["run"]


class RunParams(BaseModel):
    """What decides a run's result, except its seed; ``None`` where a parameter does not apply.

    A seed parameter is a number, the same for all runs, or "run": drawn anew from the run's own seed.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    dataset: Annotated[str, AfterValidator(_known_dataset)] = Field(description="a known data set")
    max_rows: Annotated[int, Field(ge=10, le=10**9)] | None = None
    feature_skew: Annotated[float, Field(gt=0, le=10)] | None = 3.0
    method: Method
    calibration: Literal["paper", "sound"] | None = "sound"
    epsilon: Annotated[float, Field(gt=0, le=1000)] = 1.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    rounds: Annotated[int, Field(ge=0, le=1000)] | Literal["adaptive"] = 10
    local_steps: Annotated[int, Field(ge=1, le=100)] | None = 1
    clients: Annotated[int, Field(ge=1, le=100_000)] | None = 100
    participation: Annotated[float, Field(gt=0, le=1)] | None = 0.1
    partition: Annotated[str, AfterValidator(_known_partition)] | None = Field(
        default="cluster", description="iid, cluster, or dirichlet:B with B > 0"
    )
    gaussian_share: Annotated[float, Field(gt=0, lt=1)] = 0.9
    workload_queries: Annotated[int, Field(ge=1, le=100_000)] = 64
    workload_ways: Annotated[int, Field(ge=1, le=4)] = 3
    generator: Literal["pgm", "mbi"] = "pgm"
    max_model_mb: Annotated[float, Field(gt=0, le=100_000)] = 80.0
    records_per_person: Annotated[int, Field(ge=1, le=100_000)] | None = None
    client_level: bool | None = None
    secagg: Literal["ideal", "masks"] | None = None
    cohort: Literal["padded", "per_query"] | None = None
    min_cohort: Annotated[int, Field(ge=1, le=100_000)] | None = None
    noise: Literal["server", "clients"] | None = None
    weighting: Literal["records", "equal"] | None = None
    score: Literal["l2", "l2_squared", "l1_exact", "l1_poly"] | None = None
    upload: Literal["records", "marginals"] | None = None
    release: Literal["index", "scores"] | None = None
    max_records: Annotated[int, Field(ge=1, le=50_000)] | None = None
    engine: Literal["ideal", "shares", "bgv", "ckks"] | None = None
    epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    with_auc: bool = False
    workload_seed: Seed = 123
    split_seed: Seed = 571
    partition_seed: Seed | None = 571

    def relevant(self) -> RunParams:
        """The same run with ``None`` for what cannot change it, so that equal runs compare equal."""
        generated = self.dataset == "synthfs"  # comes with its clients, its rows and no label
        drop: set[str] = set()
        drop |= set() if self.method in VARIANTS else set(OF_FLAIM)
        drop |= {*OF_DISTAIM, *OF_FHAIM} - set({"DistAIM": OF_DISTAIM, "FHAIM": OF_FHAIM}.get(self.method, ()))
        drop |= set() if self.engine == "bgv" else {"upload"}
        drop |= {*OF_MARGINALS, "client_level"} if self.method in CTGANS else set(OF_CTGAN)
        if self.method in OF_ONE_TABLE:
            drop |= set(OF_CLIENTS[:2]) if generated else set(OF_CLIENTS)
        drop |= {"partition", "max_rows"} if generated else {"feature_skew"}
        values = {name: None if name in drop else getattr(self, name) for name in NAMES}
        values["with_auc"] = self.with_auc and not generated
        return RunParams.model_construct(**values)


NAMES: tuple[str, ...] = tuple(RunParams.model_fields)


def allowed(name: str) -> str:
    """The values that parameter ``name`` takes, in words, read off the one declaration above."""
    if name == "dataset":
        return "one of " + ", ".join(dataset_names())
    schema = RunParams.model_json_schema()["properties"][name]
    return str(schema.get("description") or in_words(schema))


def in_words(schema: dict[str, Any]) -> str:
    """A JSON schema of one value as an English phrase: "a number above 0, at most 1000"."""
    if "anyOf" in schema:
        return " or ".join(in_words(option) for option in schema["anyOf"] if option["type"] != "null")
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    if "const" in schema:
        return f'"{schema["const"]}"'
    bounds = {
        "exclusiveMinimum": "above {}",
        "minimum": "at least {}",
        "exclusiveMaximum": "below {}",
        "maximum": "at most {}",
    }
    kind = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text"}
    limits = [words.format(schema[key]) for key, words in bounds.items() if key in schema]
    return " ".join([kind[schema["type"]], ", ".join(limits)]).strip()
