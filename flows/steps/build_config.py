"""What decides a dataset beside its inputs: a frozen dataclass, from a TOML file and flow parameters.

Reads a TOML file (`configs/dataset.toml` lists every key). Invariant: a key that is unknown, of the wrong type or out
of range is refused with what to do, and every key has an effect on the dataset; it is saved in the manifest.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

from lake.errors import DatasetError
from lake.rules.caps import Limits
from lake.rules.label import Policy

LANGUAGES = ("ko", "en")


@dataclass(frozen=True, slots=True)
class BuildConfig:
    """Shares are of the dataset's rows, 0 to 1. A share of 1 is no limit."""

    seed: int = 20_260_101  # of every draw: hold-out, and which rows go where there are too many
    holdout_share: float = 0.1  # of the clusters
    near_duplicate_threshold: float = 0.4  # Jaccard similarity of two questions
    max_prompt_tokens: int = 512  # with chat turns, in the model's tokens
    max_tokens: int = 640  # prompt and completion
    unlabelled: Policy = "drop"  # drop | served: train on served answers that nobody judged
    stale_labels: Literal["drop", "keep"] = "drop"  # golden and synthetic answers that the catalogue has outgrown
    ungrounded: Literal["repair", "reject"] = "repair"  # repair: put the wrong link of a rightly named tool right
    cluster_cap: int = 20  # rows of one near-duplicate cluster
    own_share: float = 0.5  # served answers of the base and our adapters
    max_generation: int = 3  # 1: the base's answers; an adapter trained on depth d answers in depth d + 1
    synthetic_share: float = 0.5
    key_rows: int = 20  # rows that hang on one API key; golden and synthetic ones are not counted
    key_share: float = 0.01  # and their share, but always one row
    language_shares: Mapping[str, float] = field(default_factory=dict[str, float])  # ko, en: at most
    category_share: float = 1.0  # of each tool category
    no_tool_share: float = 1.0  # of answers that no tool suits

    def check(self) -> BuildConfig:
        """Itself, or `DatasetError` naming the setting that is out of range."""
        shares = ("own_share", "synthetic_share", "key_share", "category_share", "no_tool_share")
        languages = self.language_shares
        wrong = [
            name
            for name, fine in {
                "holdout_share (0 to 0.5)": 0.0 <= self.holdout_share <= 0.5,
                "near_duplicate_threshold (above 0, at most 1)": 0.0 < self.near_duplicate_threshold <= 1.0,
                "max_prompt_tokens (64 to max_tokens)": 64 <= self.max_prompt_tokens <= self.max_tokens,
                "unlabelled (drop or served)": self.unlabelled in ("drop", "served"),
                "stale_labels (drop or keep)": self.stale_labels in ("drop", "keep"),
                "ungrounded (repair or reject)": self.ungrounded in ("repair", "reject"),
                "cluster_cap (1 or more)": self.cluster_cap >= 1,
                "key_rows (1 or more)": self.key_rows >= 1,
                "max_generation (0 or more)": self.max_generation >= 0,
                "language_shares (ko and en, 0 to 1 each, not less than 1 together)": languages.keys() <= set(LANGUAGES)
                and all(0.0 <= share <= 1.0 for share in languages.values())
                and (len(languages) < len(LANGUAGES) or sum(languages.values()) >= 1.0),
                **{f"{name} (0 to 1)": 0.0 <= getattr(self, name) <= 1.0 for name in shares},
            }.items()
            if not fine
        ]
        if wrong:
            raise DatasetError(f"The build can't start, out of range: {', '.join(wrong)}.", settings=wrong)
        return self

    @property
    def limits(self) -> Limits:
        """The part that limits all rows together."""
        return Limits(**{one.name: getattr(self, one.name) for one in fields(Limits)})


def from_dict(values: Mapping[str, Any], source: str = "values", base: BuildConfig | None = None) -> BuildConfig:
    """`base` (default: the defaults) with `values`, checked. Raises `DatasetError` naming the key that is wrong."""
    base = base or BuildConfig()
    known = [one.name for one in fields(BuildConfig)]
    if unknown := sorted(set(values) - set(known)):
        raise DatasetError(f"{source}: unknown key {', '.join(unknown)}. Remove it; known keys: {', '.join(known)}.")
    given = {name: _coerce(source, name, value, getattr(base, name)) for name, value in values.items()}
    return replace(base, **given).check()


def load_config(path: Path, changes: Mapping[str, Any] | None = None) -> BuildConfig:
    """The config in a TOML file, then `changes` (flow parameters). Raises `DatasetError`."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(
            f"Dataset config {path} can't be read ({error.strerror}): set MULLE_BUILD_CONFIG."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"Dataset config {path} is not valid TOML: {error}.") from error
    return from_dict(changes or {}, "parameters", from_dict(values, str(path)))


def _coerce(source: str, name: str, value: Any, default: Any) -> Any:
    """`value` in the type of the default; whole numbers may stand for fractions, nothing else is converted."""
    if isinstance(default, Mapping):
        if isinstance(value, Mapping):
            entries = cast(Mapping[str, Any], value)
            return {key: _coerce(source, f"{name}.{key}", one, 0.0) for key, one in sorted(entries.items())}
    elif isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) is type(default):
        return value
    want = "table of shares" if isinstance(default, Mapping) else type(default).__name__
    raise DatasetError(f"{source}: {name} = {value!r} has the wrong type; write a {want}.")


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """`name=value` texts as values; a value is TOML (`0.3`, `{ko = 0.7}`) or a bare word. Raises `DatasetError`."""
    values: dict[str, Any] = {}
    for change in changes:
        name, sign, text = (part.strip() for part in change.partition("="))
        if not (name and sign and text):
            raise DatasetError(f"{change!r} changes no setting: write name=value, for example own_share=0.3.")
        try:
            values[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[name] = text
    return values
