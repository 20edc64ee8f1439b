"""The one place where a prompt is made, for serving, training and evaluation alike.

User message: `질문: {user_query}\\n\\n관련 정보:\\n{summarized_context}\\n\\n답변: `, no system message;
the chat template goes around it elsewhere. `summarise` is extractive and deterministic: it only picks whole
sentences of the retrieved entries, so nothing in the context is invented, cut or forged. Same inputs and same
token counter, same bytes; any change of what comes out is a new `PROMPT_VERSION`, since training and serving
must agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lake.errors import QuestionError
from lake.schemas.records import RetrievedItem
from lake.spotlight import clean_url, one_line, split_sentences
from lake.text import detect_lang, nfc, sha256_text

PROMPT_VERSION = "prompt-1"
MAX_QUESTION_CHARS = 2_000
NOTHING_FOUND = {"ko": "(없음)", "en": "(none)"}

# Sentences of one entry that are considered at all; bounds the work for a page-long description.
_MAX_SENTENCES = 8
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
_WORD = re.compile(r"[0-9A-Za-z+#]+|[가-힣]+")

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Prompt:
    """A finished prompt. `question` and `context` are as they stand in `text`, the user message."""

    question: str
    context: str
    text: str
    messages: list[dict[str, str]]
    sha256: str  # of `text`
    used_ids: list[str]  # entries of the context, in its order
    version: str


@dataclass(frozen=True, slots=True)
class _Source:
    """What an entry's own text gives, whatever the question is."""

    head: str
    url: str
    sentences: tuple[str, ...]


@dataclass(slots=True)
class _Entry:
    """One line of the context while it grows; `chosen` are the sentences that it shows, by position."""

    id: str
    source: _Source
    chosen: set[int]

    def line(self, number: int) -> str:
        source = self.source
        shown = [source.sentences[position] for position in sorted(self.chosen)]
        body = " ".join([*shown, source.url] if source.url else shown)
        return f"{number}. {source.head} - {body}" if body else f"{number}. {source.head}"


def _features(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Lower-case words, and character bigrams of the Hangul ones (particles make words differ in Korean)."""
    words = frozenset(word.lower() for word in _WORD.findall(text))
    bigrams = frozenset(word[i : i + 2] for word in words if word[0] >= "가" for i in range(len(word) - 1))
    return words, bigrams


# Catalogue texts repeat from question to question, and reading them is most of the work of a prompt. Questions are
# never kept.
_sentence_features = lru_cache(maxsize=4096)(_features)


def _relevance(question: tuple[frozenset[str], frozenset[str]], sentence: str) -> float:
    """Share of the question's words plus share of its Hangul bigrams that the sentence holds: 0..2."""
    words, bigrams = _sentence_features(sentence)
    score = len(question[0] & words) / len(question[0]) if question[0] else 0.0
    return score + (len(question[1] & bigrams) / len(question[1]) if question[1] else 0.0)


def _sentences(description: str, chunk_text: str) -> list[str]:
    """Sentences of the description, then those of the matched passage that say something else."""
    found: list[str] = []
    for sentence in split_sentences(description):
        if sentence not in found:
            found.append(sentence)
    described = len(found)
    for sentence in split_sentences(chunk_text):
        repeats = any(sentence in known or known in sentence for known in found[:described])
        if not repeats and sentence not in found:
            found.append(sentence)
    return found


@lru_cache(maxsize=2048)
def _source(id: str, name: str, category: str, url: str, description: str, chunk_text: str) -> _Source:
    title, group = one_line(name) or one_line(id), one_line(category)
    head = f"{title} ({group})" if group else title
    return _Source(head, clean_url(url), tuple(_sentences(description, chunk_text)))


def _ranked(sentences: Sequence[str], question: str, lang: str) -> list[int]:
    """Positions of the sentences that are considered at all, most relevant first."""
    wanted = _features(one_line(question))

    def order(position: int) -> tuple[bool, float, int]:
        sentence = sentences[position]
        return detect_lang(sentence) != lang, -_relevance(wanted, sentence), position

    return sorted(range(len(sentences)), key=order)[:_MAX_SENTENCES]


def _entry(item: RetrievedItem, question: str, lang: str) -> _Entry:
    """All that is considered of an entry is chosen; how it ranks matters only where it is too much."""
    source = _source(item.id, item.name, item.category, item.url, item.description, item.chunk_text)
    count = len(source.sentences)
    chosen = range(count) if count <= _MAX_SENTENCES else _ranked(source.sentences, question, lang)
    return _Entry(item.id, source, set(chosen))


def _render(entries: Sequence[_Entry]) -> str:
    return nfc("\n".join(entry.line(number) for number, entry in enumerate(entries, start=1)))


def summarise(
    question: str,
    items: Sequence[RetrievedItem],
    lang: str,
    count_tokens: CountTokens,
    budget_tokens: int,
    max_items: int,
) -> tuple[str, list[str]]:
    """The context and the ids it shows; `count_tokens(context) <= budget_tokens` always holds.

    The best `max_items` entries by rank, a line each: name, category, sentences in their own order, URL.
    Where not everything fits, first every name and URL gets its place, then every best sentence, then the
    second ones, each time in rank order: so lower ranks give way first, by whole sentences, and an entry goes
    only where its name and URL do not fit. Sentences in `lang` come before others, then those nearest to the
    question, then the earlier ones.
    """
    if max_items < 1 or budget_tokens < 1:
        raise ValueError("max_items and budget_tokens must be at least 1")
    entries: list[_Entry] = []
    seen: set[str] = set()
    for item in sorted(items, key=lambda item: item.rank):
        if item.id not in seen and len(entries) < max_items:
            seen.add(item.id)
            entries.append(_entry(item, question, lang))
    whole = _render(entries)
    if entries and count_tokens(whole) <= budget_tokens:
        return whole, [entry.id for entry in entries]

    shown: list[_Entry] = []
    for entry in entries:
        entry.chosen = set()
        if count_tokens(_render([*shown, entry])) <= budget_tokens:
            shown.append(entry)
    ranked = [_ranked(entry.source.sentences, question, lang) for entry in shown]
    for place in range(_MAX_SENTENCES):
        for entry, positions in zip(shown, ranked, strict=True):
            if place < len(positions):
                entry.chosen.add(positions[place])
                if count_tokens(_render(shown)) > budget_tokens:
                    entry.chosen.discard(positions[place])
    if not shown:
        nothing = NOTHING_FOUND["ko" if lang == "ko" else "en"]
        return (nothing if count_tokens(nothing) <= budget_tokens else ""), []
    return _render(shown), [entry.id for entry in shown]


def check_question(question: object, max_chars: int = MAX_QUESTION_CHARS) -> str:
    """The question as one harmless NFC line. Raises `QuestionError`, whose message says what to change."""
    if not isinstance(question, str):
        raise QuestionError("The question must be text: send a JSON string.")
    if _HALF_CHARACTER.search(question):
        raise QuestionError("The question is not valid Unicode (it holds half a character): send UTF-8 text.")
    if len(question) > max_chars:
        raise QuestionError(
            f"The question has {len(question)} characters, at most {max_chars} are allowed: shorten it.",
            length=len(question),
            limit=max_chars,
        )
    line = one_line(question)
    if not any(char.isalnum() for char in line):
        raise QuestionError("The question is empty: write what the tool should do.")
    return line


class PromptBuilder:
    """Builds prompts with one token counter and one budget; stateless after that, safe to share."""

    def __init__(self, count_tokens: CountTokens, context_budget_tokens: int = 320, max_items: int = 3) -> None:
        self.count_tokens = count_tokens
        self.context_budget_tokens = context_budget_tokens
        self.max_items = max_items

    @property
    def facts(self) -> dict[str, str | int]:
        """What, beside the tokenizer, decides the text of a prompt; belongs into every manifest."""
        return {
            "prompt_version": PROMPT_VERSION,
            "context_budget_tokens": self.context_budget_tokens,
            "max_items": self.max_items,
        }

    def build(self, question: str, items: Sequence[RetrievedItem]) -> Prompt:
        """The prompt of a question and what was retrieved for it. Raises `QuestionError`."""
        line = check_question(question)
        context, used_ids = summarise(
            line, items, detect_lang(line), self.count_tokens, self.context_budget_tokens, self.max_items
        )
        text = f"질문: {line}\n\n관련 정보:\n{context}\n\n답변: "
        return Prompt(
            question=line,
            context=context,
            text=text,
            messages=[{"role": "user", "content": text}],
            sha256=sha256_text(text),
            used_ids=used_ids,
            version=PROMPT_VERSION,
        )
