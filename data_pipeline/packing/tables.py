"""Tables of images: CSV, JSONL or Parquet with a column `path` (or `url`) and a column `label` (or `labels`).

A row is (name, labels, where: "line 4"). `labels` may hold several: a list, or in CSV a JSON list or words joined by `;`. Paths are
relative to the table.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.errors import BadDataset
from data_pipeline.storage import open_store

PLACES, LABELS = ("path", "url"), ("label", "labels")
BATCH_ROWS = 8192
Row = tuple[str, list[str], str]
NO_NAME = re.compile(
    "[\0\ud800-\udc7f\udd00-\udfff]"
)  # \udc80 to \udcff are bytes of a file name that is not UTF-8


T = TypeVar("T")
Numbered = Iterator[tuple[int, T]]


def is_table(url: str) -> bool:
    return url.lower().endswith((".csv", ".jsonl", ".ndjson", ".parquet"))


def read_bytes(url: str) -> bytes:
    """A whole file: a path, file:// or s3://. Raises BadDataset where a path cannot be read."""
    if "://" not in url:
        try:
            return Path(url).expanduser().read_bytes()
        except OSError as error:
            raise BadDataset(f"cannot read {url}: {error.strerror}") from None
    folder, _, name = url.rpartition("/")
    return open_store(folder).get(name)


def read_text(url: str) -> str:
    try:
        return read_bytes(url).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadDataset(f"{url} is not UTF-8 text") from None


def rows(url: str) -> tuple[bool, Iterator[Row]]:
    """(whether rows may have several labels, the rows). Raises BadDataset naming the line."""
    kind = url.lower().rpartition(".")[2]
    reader = {"csv": _csv, "parquet": _parquet}.get(kind, _jsonl)
    columns, found = reader(url)
    place, label = _columns(columns, url)
    unit = "row" if kind == "parquet" else "line"
    return label == "labels", (_row(cells, place, label, url, f"{unit} {n}") for n, cells in found)


def csv_lines(url: str) -> Numbered[list[str]]:
    """Lines of a CSV file, with the number of each. Raises BadDataset naming the line."""
    reader = csv.reader(io.StringIO(read_text(url), newline=""))
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise BadDataset(f"{url}, line {reader.line_num}: {error}") from None


def _csv(url: str) -> tuple[Sequence[str], Numbered[dict[str, Any]]]:
    lines = ((number, row) for number, row in csv_lines(url) if row)
    _, columns = next(lines, (0, list[str]()))
    return columns, ((number, dict(zip(columns, row, strict=False))) for number, row in lines)


def _jsonl(url: str) -> tuple[Sequence[str], Numbered[dict[str, Any]]]:
    lines = ((n, line) for n, line in enumerate(io.StringIO(read_text(url)), start=1) if line.strip())
    found = ((n, _object(line, f"{url}, line {n}")) for n, line in lines)
    first = next(found, None)
    if first is None:
        return ("path", "label"), iter(())
    return list(first[1]), chain([first], found)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise BadDataset(f'{where}: {{"path": ..., "label": ...}} is needed')
    return row


def _parquet(url: str) -> tuple[Sequence[str], Numbered[dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(read_bytes(url)))
    except (pa.ArrowException, OSError) as error:
        raise BadDataset(f"{url} is no Parquet file ({_first_line(error)})") from None
    columns = [name for name in file.schema_arrow.names if name in PLACES + LABELS]

    def batches() -> Numbered[dict[str, Any]]:
        number = 0
        try:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise BadDataset(
                f"{url} is damaged behind row {number} ({_first_line(error)}); write it again"
            ) from None

    return file.schema_arrow.names, batches()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _columns(columns: Sequence[str], url: str) -> tuple[str, str]:
    places, labels = [c for c in PLACES if c in columns], [c for c in LABELS if c in columns]
    if len(places) != 1 or len(labels) != 1:
        raise BadDataset(
            f"{url} has the columns {', '.join(columns) or 'none'}; "
            "columns path (or url) and label (or labels, for several) are needed"
        )
    return places[0], labels[0]


def _row(cells: dict[str, Any], place: str, label: str, url: str, line: str) -> Row:
    name, value, where = cells.get(place), cells.get(label), f"{url}, {line}"
    values = _several(value, where) if label == "labels" else [value]
    words = [_word(one) for one in values]
    if not isinstance(name, str) or not name or not words or not all(words):
        raise BadDataset(f"{where}: {place} is {name!r} and {label} is {value!r}; both are needed")
    if NO_NAME.search(name):
        raise BadDataset(f"{where}: {place} is {name!r}; that cannot be the name of a file")
    return name, list(dict.fromkeys(words)), line


def _several(value: Any, where: str) -> Sequence[Any]:
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return value.split(";")
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadDataset(f"{where}: labels is {value!r}; that is no JSON list") from None
    return value if isinstance(value, list) else [value]


def _word(value: Any) -> str:
    """A label as text; empty where it is none."""
    named = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip() if named else ""
