"""CSV, JSONL and Parquet of paths and urls, with one label or several, and images behind a real HTTP server."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from data_pipeline.errors import BadDataset, Unavailable
from data_pipeline.packing.pack import BrokenImages, pack
from data_pipeline.packing.sources import open_source
from data_pipeline.packing.tables import rows
from data_pipeline.packing.web import Web
from data_pipeline.shards.dataset import Dataset, build_index
from data_pipeline.storage import open_store

from .conftest import image_labels, picture

SEVERAL = {"a.jpg": ["cat", "dog"], "b.jpg": ["dog"], "c.jpg": ["ant", "cat", "dog"], "d.jpg": ["ant"]}


def write_table(path: Path, rows: dict[str, list[str]], column: str = "labels", place: str = "path") -> str:
    if path.suffix == ".csv":
        lines = [f"{name},{';'.join(words)}" for name, words in rows.items()]
        path.write_text("\n".join([f"{place},{column}", *lines]) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps({place: name, column: words}) + "\n" for name, words in rows.items())
        )
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(
            pa.table({place: list(rows), column: list(rows.values()), "more": [0] * len(rows)}), path
        )
    return str(path)


def write_images(folder: Path) -> dict[str, bytes]:
    images = {name: picture(n) for n, name in enumerate(SEVERAL)}
    for name, data in images.items():
        (folder / name).write_bytes(data)
    return images


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_several_labels_become_a_json_list_of_numbers(tmp_path: Path, kind: str) -> None:
    images = write_images(tmp_path)
    facts = pack(write_table(tmp_path / f"t.{kind}", SEVERAL), str(tmp_path / "out"))
    numbers = {
        name: sorted(["ant", "cat", "dog"].index(word) for word in words) for name, words in SEVERAL.items()
    }
    found = {
        data: sorted(json.loads(text)) for data, text in image_labels(str(tmp_path / "out"), "json").items()
    }
    assert found == {images[name]: labels for name, labels in numbers.items()}
    data = Dataset.open(str(tmp_path / "out"))
    assert (str(data.labels.rule), data.labels_per_sample, data.classes) == ("json", 3, ["ant", "cat", "dog"])
    assert facts["sets"][0]["per_class"] == {"ant": 2, "cat": 2, "dog": 3}
    assert build_index(data.url, classes=data.classes, label="json")["digest"] == data.digest


def test_one_label_each_of_parquet_numbers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = write_images(tmp_path)
    pq.write_table(pa.table({"path": list(images), "label": [5, 6, 7, 5]}), tmp_path / "t.parquet")
    pack(tmp_path / "t.parquet", str(tmp_path / "out"))
    assert list(map(image_labels(str(tmp_path / "out")).get, images.values())) == [b"5", b"6", b"7", b"5"]


def test_paths_are_relative_to_a_table_in_the_store(store_url: str) -> None:
    store, images = open_store(store_url), {f"pictures/{name}": picture(n) for n, name in enumerate(SEVERAL)}
    for name, data in images.items():
        store.put(f"in/{name}", data)
    first, *rest = images
    whole = f"{store.url}/in/{first}" if store.url.startswith("s3://") else first
    names = [whole, f"./{rest[0]}", f"pictures/../{rest[1]}", rest[2]]
    store.put("in/t.csv", ("path,label\n" + "".join(f"{name},x\n" for name in names)).encode())
    pack(f"{store.url}/in/t.csv", f"{store.url}/out")
    assert set(image_labels(f"{store.url}/out")) == set(images.values())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "path,label,labels\na,1,2\n", "columns path, label, labels"),
        ("t.csv", "path,labels\na,\n", "line 2: path is 'a' and labels is ''"),
        ("t.csv", 'path,labels\na,"[1, 2"\n', "that is no JSON list"),
        ("t.jsonl", '{"path": "a", "labels": []}\n', "line 1"),
        ("t.jsonl", '{"path": "a", "label": 1}\n{"path"\n', "line 2"),
        ("t.jsonl", '{"path": "a", "label": 1}\n{"path": "b", "label": {"x": 1}}\n', "line 2"),
        ("t.parquet", "PAR1", "is no Parquet file"),
        ("t.csv", "path,label\na,1\nb,x\nc,1.5\n", r"the label '1\.5' \(line 4\) is no class number"),
        ("t.csv", "path,label\na,27\nb,27a\n", r"numbers \('27', line 2\) and words \('27a', line 3\)"),
        ("t.jsonl", '{"path": "a", "label": "-1"}\n', r"the label '-1' \(line 1\) is no class number"),
        ("t.csv", "path,label\na,0.0\nb,1.0\n", r"the label '0\.0' \(line 2\) is no class number"),
        ("t.csv", f"path,label\na,1\nb,{'x' * 200_000}\n", "line 3: field larger"),
        ("t.csv", "path,label\na\0b,1\n", "line 2: path is .*cannot be the name of a file"),
        ("t.jsonl", '{"path": "a\\ud800", "label": 1}\n', "line 1: path is .*cannot be the name of a file"),
        ("t.jsonl", '{"path": "a", "label": "x\\ud800"}\n', "cannot be the name of a class"),
        ("t.csv", f"path,label\na,{'x' * 201}\n", "cannot be the name of a class"),
        ("t.csv", "path,label\na.jpg,1\n./a.jpg,2\n", "lists 'a.jpg' 2 times, with different labels"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadDataset, match=message):
        pack(tmp_path / name, str(tmp_path / "out"))


def test_a_csv_cell_may_hold_line_breaks_and_the_line_is_still_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('path,label,caption\na.jpg,1,"two\nlines"\n,2,x\n')
    _, found = rows(str(tmp_path / "t.csv"))
    assert next(found) == ("a.jpg", ["1"], "line 3")
    with pytest.raises(BadDataset, match="line 4"):
        next(found)


def test_a_line_of_json_ends_only_where_the_line_ends(tmp_path: Path) -> None:
    row = "a\u2028b.jpg", ["x\x85y"]
    line = json.dumps({"path": "a\u2028b.jpg", "label": "x\x85y"}, ensure_ascii=False)
    (tmp_path / "t.jsonl").write_text(f"\n{line}\r\n{line}\n", newline="")
    assert list(rows(str(tmp_path / "t.jsonl"))[1]) == [(*row, "line 2"), (*row, "line 3")]


def test_numbers_that_are_listed_as_names_are_names(tmp_path: Path) -> None:
    images = write_images(tmp_path)
    table = write_table(
        tmp_path / "t.csv", dict(zip(images, [["1"], ["27a"], ["-1"], ["1"]], strict=True)), "label"
    )
    pack(table, str(tmp_path / "out"), classes=["27a", "-1", "1"])
    assert list(map(image_labels(str(tmp_path / "out")).get, images.values())) == [b"2", b"0", b"1", b"2"]


def test_a_damaged_page_of_parquet_names_the_row(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"path": [f"{n * 7919 % 1000}.jpg" for n in range(1000)], "label": list(range(1000))})
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd", use_dictionary=False)
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[200:400] = bytes(200)
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(BadDataset, match="is damaged behind row 0"):
        pack(tmp_path / "t.parquet", str(tmp_path / "out"))


def test_images_that_are_listed_twice_are_counted_and_not_split(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "t.csv").write_text("path,label\na.jpg,x\nb.jpg,y\n./a.jpg,x\nb.jpg,y\nc.jpg,x\n")
    facts = pack(tmp_path / "t.csv", str(tmp_path / "out"))
    assert facts["remarks"] == [
        f"{tmp_path}/t.csv lists images more than once, 2 rows too many; they are packed as often"
    ]
    with pytest.raises(BadDataset, match=r"more than once \(2 rows too many\)"):
        open_source(tmp_path / "t.csv").check_split()


class Pictures(BaseHTTPRequestHandler):
    """Serves picture n at /n.jpg; the first answers for some paths are faults."""

    asked: ClassVar[Counter[str]] = Counter()
    most: ClassVar[int] = 10**6  # images that it serves before it answers 503
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked[path] += 1
        first = self.asked[path] < 3
        number = int(path.strip("/").partition(".")[0])
        away = self.asked.total() > self.most
        if away or path.endswith(".gone") or (first and path.endswith(".busy.jpg")):
            self.send_response(503 if away or (first and "busy" in path) else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = picture(number)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        cut = first and path.endswith(".cut.jpg")
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The url of a server of pictures."""
    monkeypatch.setattr(Web.__init__, "__defaults__", ((0.01, 0.01, 0.01),))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Pictures.asked, Pictures.most = Counter(), 10**6
    with ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def test_urls_are_fetched_and_what_passes_is_asked_again(tmp_path: Path, web: str) -> None:
    names = ["0.jpg", "1.busy.jpg", "2.cut.jpg", "3?signature=secret"]
    table = write_table(tmp_path / "t.jsonl", {f"{web}/{name}": ["x"] for name in names}, place="url")
    pack(table, str(tmp_path / "out"))
    found = image_labels(str(tmp_path / "out"), "json")
    assert found == {picture(n): b"[0]" for n in range(4)}
    assert min(Pictures.asked["/1.busy.jpg"], Pictures.asked["/2.cut.jpg"]) >= 3


def test_a_url_that_is_gone_is_named_without_its_secrets(tmp_path: Path, web: str) -> None:
    secret = web.replace("//", "//user:hunter2@") + "/9.gone?signature=hunter3"
    table = write_table(tmp_path / "t.csv", {f"{web}/0.jpg": ["x"], secret: ["x"]}, place="url")
    with pytest.raises(BrokenImages) as caught:
        pack(table, str(tmp_path / "out"))
    assert caught.value.broken == [{"path": f"{web}/9.gone", "why": "the server answers 404"}]
    assert "hunter" not in str(caught.value)
    facts = pack(table, str(tmp_path / "out"), skip_broken=True)
    assert len(facts["skipped"]) == 1
    for path in (tmp_path / "out").iterdir():
        assert b"hunter" not in path.read_bytes()


def test_a_server_that_is_away_is_no_broken_image(tmp_path: Path, web: str) -> None:
    Pictures.most = 30
    names = {f"{web}/{n}.jpg?signature=hunter3": ["x"] for n in range(60)}
    table = write_table(tmp_path / "t.csv", names, place="url")
    options = {"skip_broken": True, "shard_bytes": 9_000, "threads": 2}
    with pytest.raises(
        Unavailable, match=r"/\d+\.jpg: the server answers 503, 4 times; .* goes on later"
    ) as caught:
        pack(table, str(tmp_path / "out"), **options)
    assert "hunter" not in str(caught.value)
    assert not (tmp_path / "out/index.json").exists()
    Pictures.most = 10**6
    assert pack(table, str(tmp_path / "out"), **options)["skipped"] == []
    nobody = write_table(tmp_path / "n.csv", {"http://127.0.0.1:9/x.jpg": ["x"]}, place="url")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9/x\.jpg: ConnectionError at 127\.0\.0\.1, 4 times"):
        pack(nobody, str(tmp_path / "none"), skip_broken=True)
