"""Foreign text made harmless before it enters a prompt: one line, no control characters, no forged sections.

Catalogue texts and questions are written by others. After `one_line` a text can't start a new line of the
prompt, can't spell a turn marker of a chat template (`<end_of_turn>`, `<|im_start|>`, `[INST]`), and can't
look like one of our own section headers. Pure; used for prompts and, with the same result, to check answers
against what the prompt showed.
"""

from __future__ import annotations

import re
import unicodedata

from lake.text import nfc

# Cc controls, Cf format characters (zero width, bidi), Cs lone surrogates, Co private use.
_DROPPED = {"Cc", "Cf", "Cs", "Co"}
_SPACES = re.compile(r"\s+")
_MARKDOWN_LINK = re.compile(r"!?\[([^\[\]]{0,500})\]\([^()\s]{0,500}\)")
_TAG_OPEN = re.compile(r"<(?=[A-Za-z0-9/|｜!_\[<])")
_BRACKET_MARKER = re.compile(r"\[(/?[A-Z][A-Z_]{2,40})\]")
_SECTION = re.compile(r"(질\s*문|관련\s*정보|답\s*변)\s*[:：︓﹕ː∶]")
_HTTP_URL = re.compile(r"(?:https?|ftp)://[^\s<>\"'`)\]}）」』】]+", re.IGNORECASE)
_URL_UNSAFE = re.compile(r"[<>\"'`{}|\\^\[\]]")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|inc|ltd|co|corp|dr|mr|mrs|ms|no|cf|st)|\b[A-Za-z]|^\d{1,3})\.$", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?。！？…]+[\"'”’)\]」』]*(?=\s|$)|(?<=[。！？])")
_TRAILING = ".,;:!?。、，！？…"


def _printable(text: str) -> str:
    """Line breaks, tabs and odd spaces become spaces; other control and format characters go."""
    if text.isprintable():  # then it holds none of them
        return text
    out: list[str] = []
    for char in text:
        if char in "\t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029":
            out.append(" ")
        elif unicodedata.category(char) not in _DROPPED:
            out.append(char)
    return "".join(out)


def one_line(text: str) -> str:
    """`text` as one NFC line that forges nothing. Idempotent; a harmless line comes back as it was."""
    text = _printable(nfc(text))
    if "[" in text:
        while (plain := _MARKDOWN_LINK.sub(r"\1", text)) != text:  # links within links
            text = plain
        text = _BRACKET_MARKER.sub(r"(\1)", _TAG_OPEN.sub("‹", text))
    elif "<" in text:
        text = _TAG_OPEN.sub("‹", text)
    text = _SECTION.sub(r"\1 -", text)
    return nfc(" ".join(text.split()))  # splits at what `\s` means


def clean_url(url: str) -> str:
    """`url` as one run without spaces; characters that could close a tag or a quote are percent-encoded."""
    bare = _SPACES.sub("", _printable(nfc(url)))
    return nfc(_URL_UNSAFE.sub(lambda match: f"%{ord(match.group()):02X}", bare))


def find_urls(text: str) -> list[str]:
    """The http(s) and ftp addresses in `text`, in order, without sentence punctuation at their end."""
    return [match.group().rstrip(_TRAILING) for match in _HTTP_URL.finditer(text)]


def without_urls(text: str) -> str:
    """`text` without its addresses: in a prompt only an entry's own URL may stand."""
    return _SPACES.sub(" ", _HTTP_URL.sub("", text)).strip()


def split_sentences(text: str) -> list[str]:
    """Sentences of a text, in order, each a harmless line; line breaks end a sentence too.

    Korean sentences end in punctuation like English ones; `Node.js`, `v1.2` and `e.g. ` do not end one.
    """
    sentences: list[str] = []
    for raw in re.split(r"[\r\n\u2028\u2029]+", text):
        line = without_urls(one_line(raw))
        start = 0
        for match in _SENTENCE_END.finditer(line):
            piece = line[start : match.end()].strip()
            if not piece or _ABBREVIATION.search(piece):
                continue
            sentences.append(piece)
            start = match.end()
        if rest := line[start:].strip():
            sentences.append(rest)
    return [one_line(sentence) for sentence in sentences]
