"""Seeded personal data that belongs to nobody: a plain value of each type, and its disguises. Pure.

A disguise keeps the value readable for a person: other separators, full-width or spelled digits, invisible characters.
Values are made from lists and check digits of their own, not from the lists of the code under test.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass


def words(text: str) -> list[str]:
    return text.split()


def lines(text: str) -> list[str]:
    return text.strip().split("\n")


HANGUL = dict(zip("0123456789", "공일이삼사오육칠팔구", strict=True))
ENGLISH = dict(
    zip("0123456789", ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], strict=True)
)

SURNAMES = [
    *("김이박최정강조윤장임한오서신권황안송류홍유고문양손배백허남심노하곽성차주우구민진지엄채원천방"),
    "남궁",
    "황보",
]
GIVEN = words("""
민수 지훈 서연 하은 도윤 서준 지우 예진 현우 수빈 민재 유진 동현 지현 은지 성민 영희 철수 미경 정훈 상우 혜진 준영
소영 태형 나은 경민 승호 보람 다은 재원 우진 혜원 명숙 영수 순자 옥희 광수 병철 기태 하늘 슬기 가영 훈 준 진 란
""")
ENGLISH_FIRST = words("""
James Mary Robert Patricia John Jennifer Michael Linda David Sarah Emma Oliver Sophia Liam Ethan Grace
""")
ENGLISH_LAST = words("""
Smith Johnson Williams Brown Jones Garcia Miller Davis Wilson Anderson Taylor Moore Jackson Martin
""")
ROMAN_GIVEN = words("""
Min-su Ji-hoon Seo-yeon Ha-eun Do-yun Ji-woo Hyun-woo Su-bin Eun-ji Sung-min
""")
ROMAN_LAST = ["Kim", "Lee", "Park", "Choi", "Jung", "Kang", "Cho", "Yoon", "Jang", "Lim", "Shin", "Kwon", "Hwang"]
CITIES = lines("""
서울 강남구
서울시 마포구
서울특별시 송파구
부산 해운대구
부산광역시 수영구
대구 수성구
인천 연수구
광주 서구
대전 유성구
울산 남구
경기 성남시 분당구
경기도 수원시 영통구
경기도 고양시 일산동구
강원 춘천시
충북 청주시 흥덕구
충남 천안시 서북구
전북 전주시 완산구
전남 여수시
경북 포항시 남구
경남 창원시 성산구
제주 제주시
""")
ROADS = words("""
테헤란로 월드컵북로 올림픽로 센텀중앙로 광안해변로 동대구로 송도과학로 상무중앙로 대학로 판교역로 광교로 중앙로
호수로 문화로
""")
DONGS = words("""
역삼동 상암동 잠실동 우동 광안동 범어동 송도동 치평동 봉명동 삼산동 정자동 매탄동 장항동 퇴계동 복대동
""")
BUILDINGS = ["래미안아파트", "푸르지오", "누리꿈스퀘어", "한빛빌딩", "센트럴타워", "행복빌라", "자이아파트"]
BANKS = (
    "국민은행",
    "신한은행",
    "우리은행",
    "하나은행",
    "농협",
    "카카오뱅크",
    "토스뱅크",
    "기업은행",
    "새마을금고",
    "우체국",
)
ACCOUNT_SHAPES = ((6, 2, 6), (3, 3, 6), (4, 3, 6), (3, 6, 5), (3, 4, 4, 2), (4, 2, 7), (4, 4, 4), (3, 6, 2, 3))


def digits(rng: random.Random, count: int, first: str = "0123456789") -> str:
    return rng.choice(first) + "".join(rng.choice("0123456789") for _ in range(count - 1)) if count else ""


def luhn_digit(body: str) -> str:
    total = 0
    for place, char in enumerate(reversed(body)):
        value = int(char) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def resident(rng: random.Random, genders: str = "1234") -> str:
    gender = rng.choice(genders)
    year = rng.randint(40, 99) if gender in "1256" else rng.randint(0, 24)
    return f"{year:02d}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}-{gender}{digits(rng, 6)}"


def foreigner(rng: random.Random) -> str:
    return resident(rng, "5678")


def ssn(rng: random.Random) -> str:
    return f"{rng.randint(1, 665):03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"


def passport(rng: random.Random) -> str:
    return rng.choice("MS") + (
        digits(rng, 8, "123456789") if rng.random() < 0.5 else f"{digits(rng, 3)}A{digits(rng, 4)}"
    )


def foreign_passport(rng: random.Random) -> str:
    return rng.choice(
        [digits(rng, 9, "123456789"), "TK" + digits(rng, 7), "E" + digits(rng, 8), "X" + digits(rng, 7) + "A"]
    )


def licence(rng: random.Random) -> str:
    return f"{rng.randint(11, 26)}-{digits(rng, 2)}-{digits(rng, 6)}-{digits(rng, 2)}"


def card(rng: random.Random) -> str:
    if rng.random() < 0.1:
        body = rng.choice(["34", "37"]) + digits(rng, 12)
        return f"{body[:4]}-{body[4:10]}-{body[10:]}{luhn_digit(body)}"
    body = rng.choice(["4", "51", "53", "55", "9410", "6243", "3560", "2221"])
    body += digits(rng, 15 - len(body))
    number = body + luhn_digit(body)
    return "-".join(number[at : at + 4] for at in range(0, 16, 4))


def account(rng: random.Random) -> str:
    return "-".join(digits(rng, size, "123456789") for size in rng.choice(ACCOUNT_SHAPES))


def iban(rng: random.Random) -> str:
    country, size = rng.choice([("DE", 18), ("FR", 23), ("NL", 18)])
    body = digits(rng, size) if country != "NL" else "ABNA" + digits(rng, 10)
    number = int("".join(str(int(char, 36)) for char in body + country + "00"))
    whole = f"{country}{98 - number % 97:02d}{body}"
    return whole if rng.random() < 0.5 else " ".join(whole[at : at + 4] for at in range(0, len(whole), 4))


def business(rng: random.Random) -> str:
    body = digits(rng, 9, "123456789")
    total = sum(int(char) * weight for char, weight in zip(body, (1, 3, 7, 1, 3, 7, 1, 3, 5), strict=True))
    check = -(total + int(body[8]) * 5 // 10) % 10
    return f"{body[:3]}-{body[3:5]}-{body[5:]}{check}"


def mobile(rng: random.Random) -> str:
    return f"010-{digits(rng, 4, '23456789')}-{digits(rng, 4)}"


def landline(rng: random.Random) -> str:
    area = rng.choice(["02", "031", "032", "051", "053", "062", "042", "064", "070", "0505"])
    return f"{area}-{digits(rng, rng.choice([3, 4]), '23456789')}-{digits(rng, 4)}"


def international(rng: random.Random) -> str:
    return rng.choice([
        f"+82 10-{digits(rng, 4, '23456789')}-{digits(rng, 4)}", f"+82-2-{digits(rng, 3, '23456789')}-{digits(rng, 4)}",
        f"+1 {digits(rng, 3, '2345678')}-{digits(rng, 3, '23456789')}-{digits(rng, 4)}",
        f"+1 ({digits(rng, 3, '2345678')}) {digits(rng, 3, '23456789')}-{digits(rng, 4)}",
        f"+44 20 {digits(rng, 4, '78')} {digits(rng, 4)}", f"+81-3-{digits(rng, 4, '3456')}-{digits(rng, 4)}",
        f"+49 30 {digits(rng, 7, '123456789')}", f"+86 138 {digits(rng, 4)} {digits(rng, 4)}",
    ])  # fmt: skip


def email(rng: random.Random) -> str:
    user = rng.choice(["hong", "minsu.kim", "j_park", "design-team", "soyoung"]) + rng.choice(
        ["", digits(rng, 2), "." + digits(rng, 4)]
    )
    return (
        f"{user}@{rng.choice(['naver.com', 'gmail.com', 'daum.net', 'company.co.kr', 'example.org', 'mail.snu.ac.kr'])}"
    )


def ip(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return "2001:4860:" + ":".join(f"{rng.randrange(1, 65536):x}" for _ in range(6))
    return f"{rng.choice([3, 13, 34, 52, 58, 112, 121, 175, 211, 220])}." + ".".join(
        str(rng.randint(1, 254)) for _ in range(3)
    )


def secret(rng: random.Random) -> str:
    letters = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
    text = "".join(rng.choice(letters) for _ in range(40))
    upper = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ234567") for _ in range(16))
    return rng.choice([
        f"sk-proj-{text}", f"ghp_{text[:36]}", f"AKIA{upper}", f"xoxb-{digits(rng, 12)}-{text[:24]}",
        f"AIza{text[:35]}",
        f"hf_{text[:34]}", f"glpat-{text[:20]}", f"eyJhbGciOiJI.eyJ{text[:20]}.{text[20:]}", f"postgres://app:{text[:10]}@db.example.com:5432/main",
    ])  # fmt: skip


def password(rng: random.Random) -> str:
    return rng.choice(["Winter", "qwer", "hong", "Mulle"]) + digits(rng, 4) + rng.choice("!@#$")


def address(rng: random.Random) -> str:
    city = rng.choice(CITIES)
    flat = rng.choice(
        [
            "",
            "",
            f" {rng.randint(1, 30)}층",
            f" {rng.randint(101, 120)}동 {rng.randint(101, 2503)}호",
            f" {rng.choice(BUILDINGS)} {rng.randint(101, 1910)}호",
        ]
    )
    if rng.random() < 0.3:
        return f"{city} {rng.choice(DONGS)} {rng.randint(1, 999)}-{rng.randint(1, 40)}{flat}"
    lane = rng.choice(["", "", f"{rng.randint(2, 90)}길 ", f"{rng.randint(2, 90)}번길 "])
    return f"{city} {rng.choice(ROADS)}{lane.strip() and lane}{'' if lane else ' '}{rng.randint(1, 480)}{flat}"


def english_address(rng: random.Random) -> str:
    if rng.random() < 0.3:
        road, district = (
            rng.choice(["Teheran", "Sejong", "Olympic", "Pangyo"]),
            rng.choice(["Gangnam", "Mapo", "Bundang"]),
        )
        return f"{rng.randint(1, 480)} {road}-ro, {district}-gu, Seoul"
    street = rng.choice(["Maple", "Oak", "Sunset", "Park", "Fifth", "Elm Hill"])
    street += " " + rng.choice(["Street", "Avenue", "Rd", "Blvd", "Lane", "Drive"])
    place, state, code = rng.choice(
        [("Springfield", "IL", "62704"), ("Austin", "TX", "78701"), ("San Jose", "CA", "95112")]
    )
    return f"{rng.randint(1, 9999)} {street}" + rng.choice(
        ["", f", {place}, {state} {code}", f", Apt {rng.randint(1, 40)}B, {place}, {state} {code}"]
    )


def korean_name(rng: random.Random) -> str:
    return rng.choice(SURNAMES) + rng.choice(GIVEN)


def english_name(rng: random.Random) -> str:
    return f"{rng.choice(ENGLISH_FIRST)} {rng.choice(ENGLISH_LAST)}"


def roman_name(rng: random.Random) -> str:
    return f"{rng.choice(ROMAN_LAST)} {rng.choice(ROMAN_GIVEN)}"


# ---- disguises: (value, generator) -> value

Dress = Callable[[str, random.Random], str]


def plain(value: str, rng: random.Random) -> str:
    return value


def separator(mark: str) -> Dress:
    def dressed(value: str, rng: random.Random) -> str:
        return value.replace("-", mark)

    return dressed


def full_width(value: str, rng: random.Random) -> str:
    return "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in value)


def invisible(value: str, rng: random.Random) -> str:
    """Zero-width characters within."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(1, len(value) - 1)
        value = value[:at] + rng.choice("\u200b\u200c\u200d\u2060\ufeff\u00ad") + value[at:]
    return value


def one_by_one(value: str, rng: random.Random) -> str:
    """`0 1 0 1 2 3 4 5 6 7 8`."""
    return " ".join(char for char in value if char.isdigit())


def hangul(value: str, rng: random.Random) -> str:
    return "".join(HANGUL.get(char, char) for char in value).replace("-", rng.choice([" ", "", "-", "에 "]))


def half_hangul(value: str, rng: random.Random) -> str:
    groups = value.split("-")
    at = rng.randrange(len(groups))
    groups[at] = "".join(HANGUL.get(char, char) for char in groups[at])
    return "-".join(groups)


def english_words(value: str, rng: random.Random) -> str:
    return " ".join(ENGLISH[char] for char in value if char.isdigit())


def letters(value: str, rng: random.Random) -> str:
    """The letter O for each zero, in a group that has other digits."""
    return "-".join(
        group.replace("0", "O") if sum(char in "123456789" for char in group) >= 2 or group == "010" else group
        for group in value.split("-")
    )


def hidden_tail(value: str, rng: random.Random) -> str:
    return value[:8] + "*" * 6 if rng.random() < 0.5 else value[:7] + "*" * 7


def lower(value: str, rng: random.Random) -> str:
    return value.lower()


def apart(value: str, rng: random.Random) -> str:
    """Hangul typed apart (NFD)."""
    return unicodedata.normalize("NFD", value)


def spaced_name(value: str, rng: random.Random) -> str:
    return " ".join(value)


def at_sign(mark: str, dot: str = ".") -> Dress:
    def dressed(value: str, rng: random.Random) -> str:
        user, _, host = value.partition("@")
        return f"{user}{mark}{host.replace('.', dot)}"

    return dressed


SEPARATORS: tuple[Dress, ...] = tuple(map(separator, ("-", "", ".", " ", "/", " - ", "–", "·")))
SPELLED: tuple[Dress, ...] = (full_width, invisible, one_by_one, hangul, half_hangul)
MAIL: tuple[Dress, ...] = (
    plain, plain, full_width, invisible, lower, at_sign("[at]"), at_sign(" (at) "), at_sign("골뱅이"),
    at_sign(" 골뱅이 "),    at_sign(" at ", " dot "), at_sign(" @ ", " . "), at_sign("[at]", "[dot]"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """How values of one type are made. `family`: which templates speak of them."""

    family: str
    make: Callable[[random.Random], str]
    dresses: tuple[Dress, ...] = (plain,)


SOURCES: dict[str, tuple[Source, ...]] = {
    "resident": (Source("resident", resident, (*SEPARATORS, *SPELLED, hidden_tail)),),
    "foreigner": (Source("foreigner", foreigner, (*SEPARATORS, *SPELLED, hidden_tail)),),
    "ssn": (Source("ssn", ssn, (plain, full_width, invisible, separator(" "), separator(""))),),
    "passport": (
        Source("passport", passport, (plain, plain, lower, full_width, invisible)),
        Source("passport_abroad", foreign_passport, (plain, full_width, invisible)),
    ),
    "licence": (Source("licence", licence, (*SEPARATORS, full_width, invisible, one_by_one)),),
    "card": (Source("card", card, (*SEPARATORS, *SPELLED)),),
    "account": (
        Source("account", account, (*SEPARATORS, *SPELLED)),
        Source("account", account, (plain,)),
        Source("iban", iban, (plain, full_width)),
    ),
    "business": (Source("business", business, (*SEPARATORS, *SPELLED)),),
    "phone": (
        Source("phone", mobile, (*SEPARATORS, *SPELLED, english_words, letters, separator("_"))),
        Source("phone", landline, (*SEPARATORS, full_width, invisible)),
        Source("phone", international, (plain, full_width)),
    ),
    "email": (Source("email", email, MAIL),),
    "ip": (Source("ip", ip, (plain, plain, full_width, invisible)),),
    "secret": (Source("secret", secret, (plain,)), Source("password", password, (plain,))),
    "address": (
        Source("address", address, (plain, plain, full_width, apart, invisible)),
        Source("address_en", english_address, (plain,)),
    ),
    "name": (
        Source("name", korean_name, (plain, plain, plain, apart, invisible, spaced_name)),
        Source("name_en", english_name, (plain,)),
        Source("name_en", roman_name, (plain,)),
    ),
}  # fmt: skip
