"""An export as Parquet: one long table of all metrics."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from genmeter.errors import MissingExtraError
from genmeter.files.manifest import KEY, describe
from genmeter.history.frames import to_frame

if TYPE_CHECKING:
    from pathlib import Path

    from genmeter.files.atomic import AtomicFiles
    from genmeter.files.manifest import Manifest
    from genmeter.history.snapshot import Snapshot

__all__ = ["write_parquet"]


def write_parquet(
    snapshot: Snapshot, path: Path, manifest: Manifest, files: AtomicFiles
) -> list[Path]:
    """Write the frame of samples, which pandas reads back with its dtypes.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OSError: The file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", extra="parquet", purpose="Writing Parquet") from None
    frame = to_frame(snapshot, "samples")
    describe(frame, manifest)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**table.schema.metadata, KEY.encode(): json.dumps(manifest).encode()}
    # A file of our own opening, so that the disk's errors come as they are.
    with files.stage(path).open("xb") as file:
        pq.write_table(table.replace_schema_metadata(metadata), file)
    return [path]
