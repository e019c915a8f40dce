"""Parquet files of strangers, read within bounds: a small file may say that it holds anything."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weightspace.errors import FormatError, one_line

EXPANDED = 4 << 30  # bytes of a table in memory


def read_bounded(path: Path, name: str) -> pa.Table:
    """Read a Parquet file whole, if what it holds is no more than `EXPANDED` bytes.

    Args:
        path: where it lies.
        name: for messages.

    Raises:
        FormatError: it is damaged, or larger than that.
    """
    try:
        with pq.ParquetFile(path) as file:
            text = [column.path for column in file.schema if column.physical_type == "BYTE_ARRAY"]
            _expect(_claimed(file.metadata), name)
        # Text in dictionaries, as it lies in the file: spelled out in every row it may be a thousand times as long.
        with pq.ParquetFile(path, read_dictionary=text) as file:
            table = file.read()
        _expect(sum(_spelled_out(column) for column in table.columns), name)
        return pa.table({key: table[key].cast(_plain(table[key].type)) for key in table.column_names})
    except (pa.ArrowException, OSError) as error:
        said = one_line(" ".join(str(error).split()), 120)
        raise FormatError(f"{name}: is damaged ({said})", reason="corrupt", advice="push or export it again") from None


def _claimed(metadata: pq.FileMetaData) -> int:
    """Bytes that a file's own account comes to, eight for each value."""
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    chunks = [group.column(at) for group in groups for at in range(group.num_columns)]
    return int(sum(max(chunk.num_values * 8, chunk.total_uncompressed_size) for chunk in chunks))


def _spelled_out(column: pa.ChunkedArray | pa.Array) -> int:
    """Bytes of a column without dictionaries."""
    total = 0
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        if pa.types.is_list(chunk.type):
            total += len(chunk) * 4 + _spelled_out(chunk.flatten())
        elif pa.types.is_dictionary(chunk.type):
            total += pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices).cast(pa.int64())).as_py() or 0
        else:
            total += chunk.nbytes
    return int(total)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without dictionaries."""
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _expect(size: int, name: str) -> None:
    if size > EXPANDED:
        raise FormatError(
            f"{name}: holds {size} bytes once it is unpacked, expected {EXPANDED} at most", reason="hostile", advice="do not use it"
        )


__all__ = ["EXPANDED", "read_bounded"]
