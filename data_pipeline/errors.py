"""What can go wrong with stores and data sets.

DataError
+-- StoreError        the store said no, or the url or key is wrong
|   +-- NotFound      no such object
|   +-- AccessDenied  credentials missing, wrong, expired or not allowed to do this
|   +-- Unavailable   the store did not answer properly within the retry budget
+-- BadDataset        shards or index are not what they should be (names shard, sample, offset)

Messages hold names of buckets and keys, never credentials, nor what a server echoed of them.
"""

from __future__ import annotations


class DataError(Exception):
    """Something about stores or data sets is wrong; the message says what, and what to do."""


class StoreError(DataError):
    """The store refused, or a url or key is not valid."""


class NotFound(StoreError):
    """There is no such object."""


class AccessDenied(StoreError):
    """Credentials are missing, wrong, expired, or lack the right."""


class Unavailable(StoreError):
    """The store did not answer properly, though asked again until the retry budget was spent."""


class BadDataset(DataError):
    """Shards or index are damaged or of a form that cannot be used; names shard, sample and offset."""
