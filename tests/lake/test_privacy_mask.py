"""Masking one text: each type in plain and obfuscated dress, look-alikes left alone, masked text left alone."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lake.errors import SetupError
from lake.house_style import parse
from lake.privacy.mask import mask
from lake.privacy.types import PII_TYPES, PLACEHOLDERS, parse_types
from lake.spotlight import find_urls, one_line
from lake.text import detect_lang, nfc

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"

ONE_OF_EACH = {
    "resident": "주민번호는 900101-1234567이에요",
    "foreigner": "외국인등록번호 900101-5234567",
    "ssn": "my SSN is 219-09-9999 for the form",
    "passport": "여권번호 M12345678 로 예약",
    "licence": "운전면허 11-22-123456-78 확인",
    "card": "카드 4111-1111-1111-1111 결제",
    "account": "국민은행 123456-01-123456 으로 입금",
    "business": "사업자등록번호 123-45-67890 조회",
    "phone": "010-1234-5678로 전화 주세요",
    "email": "send it to hong.gildong@example.com please",
    "ip": "서버 52.78.11.9 에 접속이 안 돼요",
    "secret": "API key: sk-proj-abcdEFGH1234ijklMNOP5678 를 어디에 보관하죠",
    "address": "서울 강남구 테헤란로 152 10층으로 보내 주세요",
    "name": "담당자: 김민수, 도구를 찾습니다",
}


def test_there_is_an_example_of_each_type() -> None:
    assert set(ONE_OF_EACH) == set(PII_TYPES)


@pytest.mark.parametrize("kind", PII_TYPES)
def test_each_type_is_masked_and_can_be_switched_off(kind: str) -> None:
    text = ONE_OF_EACH[kind]
    masked = mask(text)
    assert PLACEHOLDERS[kind] in masked.text
    assert masked.counts == {kind: 1}
    assert mask(text, off={kind}).text == text


@pytest.mark.parametrize(
    "text",
    [
        "０１０－１２３４－５６７８",
        "010\u200b1234\u200b5678",
        "010.1234.5678",
        "010/1234/5678",
        "0 1 0 1 2 3 4 5 6 7 8",
        "공일공 일이삼사 오육칠팔",
        "공일공에 일이삼사에 오육칠팔이고요",
        "010-일이삼사-5678",
        "O1O-1234-5678",
        "+82 10-1234-5678",
        "zero one zero, one two three four, five six seven eight",
        "+44 20 7946 0958",
        "(02) 345-6789",
    ],
)
def test_phones_in_disguise(text: str) -> None:
    masked = mask(f"제 번호 {text}")
    assert masked.counts == {"phone": 1}
    assert not any(char.isdigit() for char in nfc(masked.text))


@pytest.mark.parametrize(
    "text",
    [
        "hong at gmail dot com",
        "hong[at]naver.com",
        "hong골뱅이naver.com",
        "홍길동골뱅이네이버닷컴",
        "hong＠naver．com",
        "hong @ naver . com",
    ],
)
def test_mail_in_disguise(text: str) -> None:
    assert mask(f"메일은 {text}").text == f"메일은 {PLACEHOLDERS['email']}"


def test_names_typed_apart() -> None:
    import unicodedata

    assert mask(unicodedata.normalize("NFD", "담당자: 김민수")).counts == {"name": 1}


def test_the_tail_of_a_resident_number_is_not_checked() -> None:
    """Random since October 2020: of ten numbers with every last digit, all are masked."""
    assert all(mask(f"주민번호 201105-312345{digit}").counts == {"resident": 1} for digit in range(10))


@pytest.mark.parametrize(
    "text",
    [
        "도구 별로 3개씩 추천해 줘",
        "2024-11-25 12:30:45에 v1.2.3.4를 설치했고 가격은 1,200,000원",
        "Python 3.11.9 and Node.js 20.11.1 on Windows 11 24H2",
        "RTX 4090, i9-14900K, WH-1000XM5, SM-S928N 지원하나요",
        "회의실 예약 도구: 2024.01.15 ~ 2024.12.31, 1588명이 사용",
        "look at github.com and figma.com",
        "사용자님, 관리자님, 이용자님께 알림",
        "변호사에게 보낼 문서 도구, 간호사한테 맞는 앱",
        "password manager for a team of 1200 people",
        "https://www.figma.com/file/4012888888881881/010-1234-5678",
        "192.168.0.1 and 127.0.0.1",
        "The call is at 10:30, order 20241125-0001",
    ],
)
def test_look_alikes_come_back_as_they_were(text: str) -> None:
    masked = mask(text)
    assert masked.text is text and not masked.counts


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for entry in value for text in strings(entry)]
    return [text for entry in value.values() for text in strings(entry)] if isinstance(value, dict) else []


@pytest.mark.parametrize("file", ["catalog", "questions", "reviews", "test"])
def test_nothing_of_the_sample_data_is_hit(file: str) -> None:
    rows = [orjson.loads(line) for line in (SAMPLE / f"{file}.jsonl").read_bytes().splitlines()]
    texts = [text for row in rows for text in strings(row)]
    assert len(texts) > 500
    assert [(text, mask(text).text) for text in texts if mask(text).counts] == []


def test_placeholders_pass_through_what_text_passes_through() -> None:
    for placeholder in PLACEHOLDERS.values():
        assert nfc(placeholder) == placeholder == one_line(placeholder)
        assert mask(f"a {placeholder} b").text == f"a {placeholder} b"
        assert not find_urls(placeholder)
        assert detect_lang(f"call me at {placeholder}") == "en"
        assert detect_lang(f"{placeholder}로 전화해 주세요") == "ko"
    parsed = parse("추천: Figma\n이유: (PHONE_NUMBER)로 문의하세요.\n링크: https://www.figma.com")
    assert parsed is not None and parsed.name == "Figma"


@given(st.lists(st.sampled_from([*ONE_OF_EACH.values(), " ", "\n", "(", ")", "-", "010", "x@", "님", "1"]), max_size=6))
def test_masking_twice_changes_nothing(parts: list[str]) -> None:
    once = mask("".join(parts))
    assert mask(once.text).text == once.text and not mask(once.text).counts


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    masked = mask(text)
    assert mask(masked.text).text == masked.text


def test_unknown_type_names_the_known() -> None:
    assert parse_types("name, address,") == {"name", "address"}
    with pytest.raises(SetupError, match="resident"):
        parse_types("nmae")
