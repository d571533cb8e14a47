"""Benchmark data sets of the papers, their train/test split, and how their rows are dealt to clients."""

from marginal_sdg.datasets.partition import partition, synthfs
from marginal_sdg.datasets.registry import DATASETS, Dataset, load_dataset
from marginal_sdg.datasets.split import split, split_rows

__all__ = ["DATASETS", "Dataset", "load_dataset", "partition", "split", "split_rows", "synthfs"]
