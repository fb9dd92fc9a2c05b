"""The place of a pack lies apart from its source: nothing is written into, or cleared away from, what is to be packed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from data_pipeline.errors import BadDataset
from data_pipeline.packing.archives import is_tar
from data_pipeline.packing.sources import DIGITS
from data_pipeline.storage import Store, open_store
from data_pipeline.storage.local import LocalStore


def check_apart(source: str, places: Iterable[Store]) -> None:
    """Refuses a place in the folder that is packed (what was written would be packed the next time), or beside a tar that is."""
    if source == DIGITS:
        return
    inside, beside = _address(open_store(source)), _folders_of_tar(source) if is_tar(source) else set()
    for place in places:
        here = _address(place)
        if f"{here}/".startswith(f"{inside}/"):
            raise BadDataset(
                f"{place.url} lies in {source}, which is to be packed; choose a place outside of it"
            )
        if here in beside:
            raise BadDataset(
                f"{place.url} is the folder that holds {source}, which is to be packed; choose another place, as a folder in it"
            )


def _address(store: Store) -> str:
    """Its url; of a folder the path, with links followed, so that two names of one folder are equal."""
    return str(store.root.resolve()) if isinstance(store, LocalStore) else store.url


def _folders_of_tar(source: str) -> set[str]:
    """Where a tar lies, and where it lies really, if it is a link."""
    store = open_store(source)
    if isinstance(store, LocalStore):
        paths: list[Path] = [store.root.parent.resolve(), store.root.resolve().parent]
        return {str(path) for path in paths}
    scheme, _, rest = store.url.partition("://")
    return {f"{scheme}://{PurePosixPath(rest).parent}"}
