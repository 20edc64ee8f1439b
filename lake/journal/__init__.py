"""The request journal: framed, checksummed, append-only segments, one directory a worker and boot."""
