"""What single shards have come to, added up to the root of the index, in memory that only names and numbers of shards take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data_pipeline.errors import BadDataset
from data_pipeline.shards.format import Contents, Shard, Shards, index_json
from data_pipeline.shards.labels import LabelRule, Labels

# Names of which nearly each sample has its own are captions. Looked at in the end, and early where there are many.
FEW_NAMES, MANY_NAMES = 500, 20_000
OWN_NAME = 0.9


class Sums:
    """Shards in order, and what they hold together."""

    def __init__(self, rule: LabelRule, classes: Sequence[str] | None = None) -> None:
        """`classes`: the names of the classes; else they are what labels name, in alphabetical order."""
        self.rule, self.classes = rule, classes
        self.shards: list[Shard] = []
        self.samples = self.span_bytes = 0
        self.contents = Contents()

    def add(self, shard: Shard, contents: Contents, span_bytes: int) -> None:
        """The next shard. BadDataset where names become too many to be classes."""
        self.shards.append(shard)
        self.samples += shard.samples
        self.span_bytes += span_bytes
        self.contents.add(contents)
        self._refuse_captions(MANY_NAMES)

    def index(self, where: dict[str, Any]) -> dict[str, Any]:
        """The content of index.json. Raises BadDataset for labels that fit no classes."""
        self._refuse_captions(FEW_NAMES)
        names = self.contents.names
        classes = sorted(names) if self.classes is None and names else self.classes
        return index_json(
            Shards.of(self.shards),
            self.contents,
            Labels(self.rule, classes),
            span_bytes=self.span_bytes,
            given=self.classes is not None,
            where=where,
        )

    def _refuse_captions(self, allowed: int) -> None:
        names = self.contents.names
        if self.classes is None and len(names) > allowed:
            labels = self.samples * self.contents.labels_per_sample
            if len(names) > OWN_NAME * labels:
                raise BadDataset(
                    f"the labels ({self.rule}) of {self.samples} samples have {len(names)} different names, as "
                    f"{min(names)!r}: captions, not classes. Say with --label where the classes stand; if these "
                    "are classes, list them with --classes FILE"
                )
