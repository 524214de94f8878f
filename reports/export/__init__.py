"""A study's results for others: a tidy data set with its schema, and a capsule of all of it with checksums."""

from reports.export.archive import ArchiveError, Limits, check_manifest, pack, unpack
from reports.export.capsule import capsule_name, write_capsule
from reports.export.columns import RESULTS, SAMPLES, Column
from reports.export.dataset import export_dataset

__all__ = [
    "RESULTS",
    "SAMPLES",
    "ArchiveError",
    "Column",
    "Limits",
    "capsule_name",
    "check_manifest",
    "export_dataset",
    "pack",
    "unpack",
    "write_capsule",
]
