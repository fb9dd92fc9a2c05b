"""The data path, measured: decoding, reading, streaming, seeking, and whole loaders against their peers."""
