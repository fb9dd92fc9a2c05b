"""What importing this package costs: no heavy library before it is needed."""

from __future__ import annotations

import subprocess
import sys


def test_stores_index_and_pack_import_neither_torch_nor_boto3() -> None:
    code = (
        "import sys, data_pipeline.shards.dataset, data_pipeline.packing.pack, data_pipeline.storage, data_pipeline.shards.verify\n"
        "print(sorted({'torch', 'boto3', 'webdataset', 'sklearn', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
