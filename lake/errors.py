"""Every error that Mulle raises on purpose, in one tree.

    MulleError
    ├── InputError             the caller's text or file is wrong (HTTP 422)
    │   ├── QuestionError      empty, over-long or non-text question
    │   ├── CatalogError       a catalogue that can't be read at all
    │   ├── DatasetError       a dataset that is missing, empty or does not match its manifest
    │   │   └── WithdrawnError it holds rows that were erased: build again (HTTP 410)
    │   ├── UnknownSubjectError  nothing of that request, key or session is kept here (HTTP 404)
    │   └── AdapterError       an adapter that must not be loaded
    ├── SetupError             the machine or the settings are not ready (exit code 2)
    │   ├── PortInUseError
    │   ├── DiskSpaceError
    │   ├── ModelMissingError  prepare the models first
    │   └── IndexUnusableError build the index first
    ├── JournalError           a record could not be made durable (HTTP 503 log_unavailable)
    ├── IngestError            the ledger does not close, or a commit was lost for good
    │   ├── CommitConflictError  another process wrote the table first; nothing was written
    │   └── CommitUnknownError   it is not known whether the rows were written
    ├── BackendError           the LLM did not answer (HTTP 502)
    │   ├── BackendTimeout     (HTTP 504)
    │   ├── BackendOverloaded  (HTTP 503)
    │   ├── BackendSuspended   it failed too often and is left alone for a while (HTTP 503)
    │   ├── BackendBadAnswer   not a chat completion
    │   └── BackendRefused     key, model name or prompt length
    ├── ErasureError           something of what was erased is still on the disk
    ├── LeaseLostError         somebody else has the review item now (HTTP 409)
    ├── TrainingError          training ended without a usable adapter
    └── GateError              a candidate may not be promoted

Each has a stable `code` (used in problem+json and in logs), an HTTP `status` and an `exit_code`; the message
says what to do.
"""

from __future__ import annotations


def says(error: object) -> str:
    """What an exception of somebody else's code says, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


class MulleError(Exception):
    """Base of all; `str(error)` is one line for people, `detail` holds machine-readable facts."""

    code = "internal"
    status = 500
    exit_code = 1

    def __init__(self, message: str, **detail: object) -> None:
        super().__init__(message)
        self.detail = detail


class InputError(MulleError):
    code = "invalid_input"
    status = 422
    exit_code = 65  # EX_DATAERR of sysexits.h


class QuestionError(InputError):
    code = "invalid_question"


class CatalogError(InputError):
    code = "invalid_catalog"


class DatasetError(InputError):
    code = "invalid_dataset"


class WithdrawnError(DatasetError):
    code = "dataset_withdrawn"
    status = 410


class UnknownSubjectError(InputError):
    code = "unknown_subject"
    status = 404


class AdapterError(InputError):
    code = "invalid_adapter"


class SetupError(MulleError):
    code = "not_ready"
    status = 503
    exit_code = 78  # EX_CONFIG


class PortInUseError(SetupError):
    code = "port_in_use"


class DiskSpaceError(SetupError):
    code = "disk_full"


class ModelMissingError(SetupError):
    code = "model_missing"


class JournalError(MulleError):
    code = "log_unavailable"
    status = 503
    exit_code = 74  # EX_IOERR


class IngestError(MulleError):
    code = "ingest_failed"
    exit_code = 74


class BackendError(MulleError):
    code = "llm_unavailable"
    status = 502
    exit_code = 69  # EX_UNAVAILABLE


class BackendTimeout(BackendError):
    code = "llm_timeout"
    status = 504


class BackendOverloaded(BackendError):
    code = "llm_overloaded"
    status = 503


class BackendSuspended(BackendError):
    code = "llm_suspended"
    status = 503


class ErasureError(MulleError):
    code = "erasure_unproven"


class TrainingError(MulleError):
    code = "training_failed"


class GateError(MulleError):
    code = "gate_refused"
    status = 409


class CommitConflictError(IngestError):
    code = "commit_conflict"


class CommitUnknownError(IngestError):
    code = "commit_unknown"


class IndexUnusableError(SetupError):
    """The search index is missing, damaged, or made by another embedder."""

    code = "index_unusable"


class BackendBadAnswer(BackendError):
    """The LLM server answered with something that is not a chat completion."""

    code = "llm_bad_answer"


class BackendRefused(BackendError):
    """The LLM server refuses this request for good: key, model name or prompt length."""

    code = "llm_refused"


class SwitchError(MulleError):
    """The gateway was not moved to the new backend; the old one is in service."""

    code = "switch_failed"
    status = 409
    exit_code = 75  # EX_TEMPFAIL


class LeaseLostError(MulleError):
    """The lease ran out and the item went to another reviewer, or it left the queue."""

    code = "lease_lost"
    status = 409
    exit_code = 75
