"""Erases a request, a key's requests or a session: hidden at once, its bytes removed within a window, then proven.

    planned   the work file names what is looked for
    hidden    ids recorded (ingest drops them, look-ups answer 404), rows deleted, datasets withdrawn, adapters
              quarantined
    removed   journal frames blanked, former data files and logs cleared, folders, caches, reports and exports gone
    proven    a search of every byte below data/ and models/ found neither an id nor a distinctive text

Reads and writes everything that `lake/erase_plan.py` names. Invariants: nothing is removed before its ids are
recorded; each step can be killed and repeated; the ledger of ingest closes after each; a dataset with a row of the
subject is never read again, and an adapter trained on it never serves again: where it was the champion, the registry
falls back on the newest champion that was not trained on it, else on the base. Safe beside a gateway and ingests.
Run by `flows.erase`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from ulid import ULID

from lake.erase_plan import Kind, Reach, find_reach, find_subject, require_known, subject_hash
from lake.erase_remove import prove, remove
from lake.erase_tables import ID_COLUMNS, delete_rows
from lake.erase_work import Work, drop, open_works, record, save, states
from lake.errors import ErasureError
from lake.lineage_files import adapters_of, dataset_folders, rows_of
from lake.redacted import redact
from lake.registry import Registry
from lake.settings import LakeSettings
from lake.split_store import one_at_a_time
from lake.withdrawn import withdraw

Log = Callable[[str], None]
Point = Callable[[str], None]  # told after each step; tests die in it


def preview(paths: LakeSettings, kind: Kind, value: str, log: Log = print) -> dict[str, Any]:
    """What an erasure would reach, named; nothing is touched. Raises `UnknownSubjectError`."""
    reach = _reach(paths, kind, value, log)
    return {"kind": kind, "dry_run": True, "reach": reach.to_dict(), "rebuild": rebuild_plan(reach)}


def begin(paths: LakeSettings, kind: Kind, value: str, now: datetime, log: Log = print) -> Work | None:
    """The work of an erasure, on disk before anything is touched. None: it was erased and proven before.

    One that is under way is taken up again, with what was found since. `now` is UTC. Raises `UnknownSubjectError`.
    """
    hashed = subject_hash(kind, value)
    earlier = next((work for work in open_works(paths.erasures_dir) if work.subject_sha256 == hashed), None)
    subject = find_subject(paths, kind, value)
    if earlier is not None:
        work = earlier.with_subject(subject)
    else:
        reach = find_reach(paths, subject, subject.words(), log)
        if not reach and states(paths.lake_dir, "subject_sha256", hashed):
            return None
        require_known(reach, kind)
        work = Work(str(ULID()), kind, hashed, now.isoformat(), paths.erase_window_days, reach=_places(reach))
        work = work.with_subject(subject)
    save(paths.erasures_dir, work)
    return work


def _places(reach: Reach) -> dict[str, Any]:
    return {**reach.to_dict(), "rebuild": rebuild_plan(reach)}


def _reach(paths: LakeSettings, kind: Kind, value: str, log: Log) -> Reach:
    subject = find_subject(paths, kind, value)
    reach = find_reach(paths, subject, subject.words(), log)
    require_known(reach, kind)
    return reach


def carry_on(
    paths: LakeSettings,
    work: Work,
    now: datetime,
    *,
    at_once: bool = False,
    log: Log = print,
    point: Point = lambda _: None,
) -> dict[str, Any]:
    """Hide, and where it is due (or `at_once`) remove and prove; the report. Safe to kill anywhere and to repeat.

    Raises `ErasureError` where something is still found, `IngestError` where the ledger does not close, and errors of
    the disk.
    """
    work = hide(paths, work, now, log, point)
    report: dict[str, Any] = {
        "erasure_id": work.erasure_id,
        "kind": work.kind,
        "state": "hidden",
        "due": work.due.isoformat(),
        "reach": work.reach,
        "datasets_withdrawn": work.datasets,
        "adapters_quarantined": work.adapters,
    }
    if not at_once and now < work.due:
        return report
    removal = remove(paths, work, now, log, point)
    report["removal"] = removal.to_dict()
    if removal.waiting:
        log(f"erasure {work.erasure_id}: not all bytes can go yet: {'; '.join(removal.waiting)}")
        return report
    record(paths.lake_dir, work, "removed", report["removal"], now)
    point("removed")
    work = replace(work, state="removed")
    save(paths.erasures_dir, work)
    proof = prove(paths, work, removal)
    report |= {"state": "removed", "proof": proof}
    if proof["found"]:
        raise ErasureError(
            f"Erasure {work.erasure_id} is not proven: {len(proof['found'])} files still hold something of it "
            f"({', '.join(one['file'] for one in proof['found'][:5])}). Remove those by hand, then run it again.",
            report=report,
        )
    record(paths.lake_dir, work, "proven", proof, now)
    point("proven")
    drop(paths.erasures_dir, work)
    return report | {"state": "proven"}


def run_due(paths: LakeSettings, now: datetime, *, at_once: bool = False, log: Log = print) -> list[dict[str, Any]]:
    """Carry on with every erasure that is not proven yet; their reports. `at_once`: without waiting for the window."""
    return [carry_on(paths, work, now, at_once=at_once, log=log) for work in open_works(paths.erasures_dir)]


def hide(paths: LakeSettings, work: Work, now: datetime, log: Log = print, point: Point = lambda _: None) -> Work:
    """Gone for readers on return. Safe to repeat; a repeat also takes what was written meanwhile."""
    record(paths.lake_dir, work, "hidden", work.reach, now)
    point("recorded")
    ids = frozenset(work.ids)
    for name in ID_COLUMNS:
        delete_rows(paths.lake_dir, name, ids, work.erasure_id)
        point(f"rows of {name}")
    with one_at_a_time(paths.datasets_dir):  # a build that read the rows before would write them after
        for left in paths.datasets_dir.glob(".*/"):  # of builds and erasures that were killed
            shutil.rmtree(left, ignore_errors=True)
        for folder in dataset_folders(paths.datasets_dir):
            rows = sum(1 for _ in rows_of(folder, ids))
            if rows:
                withdraw(folder, work.erasure_id, rows, now)
                work = replace(work, datasets=sorted({*work.datasets, folder.name}))
                save(paths.erasures_dir, work)
                point("dataset withdrawn")
            elif redact(folder, ids):
                point("rejects redacted")
    work = quarantine_adapters(paths, work, log, point)
    if work.state == "planned":
        work = replace(work, state="hidden")
    save(paths.erasures_dir, work)
    point("hidden")
    return work


def quarantine_adapters(paths: LakeSettings, work: Work, log: Log, point: Point = lambda _: None) -> Work:
    """Every adapter trained on a withdrawn version, the champion last, so that it falls back on none of the others."""
    reached = adapters_of(paths.models_dir, work.datasets)
    registry = Registry(paths.models_dir)
    for one in sorted(reached, key=lambda one: one.state == "champion"):
        if one.state != "quarantined":
            registry.quarantine(one.adapter_id, "erase", f"trained on erased rows (erasure {work.erasure_id})")
            point("adapter quarantined")
        if one.state == "champion":
            now = registry.champion()
            log(
                f"THE CHAMPION {one.adapter_id} WAS TRAINED ON ERASED ROWS AND IS OUT OF SERVICE; in service now: "
                f"{now.adapter_id if now else 'the base alone'}. Gateways that follow the champion move by themselves; "
                "move the others, and rebuild."
            )
    return replace(work, adapters=sorted({*work.adapters, *(one.adapter_id for one in reached)}))


def rebuild_plan(reach: Reach) -> list[str]:
    """Commands that bring dataset and adapter back without the rows; empty where none was reached."""
    commands = ["python -m flows.ingest", "python -m flows.build"] if reach.datasets else []
    if reach.adapters:
        commands += ["python -m flows.finetune", "python -m flows.evaluate", "python -m flows.promote"]
    if reach.ggufs:
        commands.append("python -m flows.export")
    return commands
