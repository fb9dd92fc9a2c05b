"""Ours without the C part: every image is decoded whole. What users have where nothing could be built."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.data.competitors.ours import batches
from benchmarks.data.turns import serve

if __name__ == "__main__":
    os.environ["MIXER_NATIVE"] = "off"
    place, kind = sys.argv[1:]
    serve(batches(str(Path(place, "shards")), kind), version="0")
