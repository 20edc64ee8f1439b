"""Word lists of the privacy rules, as alternations for patterns. Sources: ko-pii's dictionaries where it has them."""

from __future__ import annotations

from collections.abc import Iterable


def _alternation(words: Iterable[str]) -> str:
    """Longest first, so that none hides a longer one."""
    return "|".join(sorted(set(words), key=lambda word: (-len(word), word)))


HANGUL_DIGITS = "공영일이삼사오육륙칠팔구"
HANGUL_DIGIT_VALUES = dict(zip(HANGUL_DIGITS, "001234566789", strict=True))

SPOKEN_DIGIT_VALUES = {
    "zero": "0", "oh": "0", "one": "1", "two": "2", "three": "3", "four": "4",
    "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
}  # fmt: skip
SPOKEN_DIGITS = "|".join(SPOKEN_DIGIT_VALUES)

FREE_MAIL = "gmail|naver|daum|hanmail|kakao|nate|outlook|hotmail|yahoo|icloud|proton"
FREE_MAIL_KO = "네이버|지메일|구글|다음|한메일|카카오|네이트|야후|핫메일|아웃룩|아이클라우드"

# The commonest surnames, 98 % of Koreans (census of 2015), and two-syllable ones.
SURNAMES = (
    "남궁|황보|제갈|사공|선우|독고"
    "|[김이박최정강조윤장임한오서신권황안송류전홍유고문양손배백허남심노하곽성차주우구민나진지엄채원천방공현함변"
    "염여추도소석선설마길연위표명기반왕금옥육맹제모탁국어은편용예경봉]"
)

# Syllables of given names (those that names of the last fifty years are made of).
GIVEN = (
    "가강건겸경고관광교구국규균근금기길나남녹다단달담대덕도동두라란람랑래려련령로록룡루리린림마만명모목무문미민"
    "바발배백범별병보복봉빈사산상새샘서석선설섭성세소솔송수숙순슬승시신실심아안애양언여연열염엽영예오옥온완용"
    "우욱운웅원월위유윤율은이익인일임자장재전정제조종주준중지진찬창채천철청초총추춘충치태택평표필하학"
    "한해향헌혁현형혜호홍화환회효후훈휘흠희흥늘빛봄름"
)

_TITLES = """
님 씨 선생 과장 차장 부장 팀장 실장 본부장 센터장 대리 주임 사원 대표 이사 상무 전무 사장 회장 원장 교수 박사 강사
교사 의사 간호사 변호사 세무사 회계사 기자 작가 감독 코치 선수 의원 장관 책임 선임 수석 연구원 매니저 프로님 고객 환자
학생 어머니 아버지 주무관 사무관 서기관 계장 반장 위원 판사 검사 형사 경위 경감 경장 순경 소방 간사 사서 집사 목사
스님 국장 처장 단장 위원장 교감 교장 약사 소장 조교 총무 중위 대위 소위 중령 대령 중사 하사 상병 병장 여사 군은 양은
군의 양의
"""
TITLES = _alternation(_TITLES.split())

# What stands before a name; `_` is a space.
_LABELS = """
이름 성명 성함 예금주 담당자 신청인 신청자 수신인 수취인 수령인 받는_사람 받는사람 받는_분 받는분 보내는_사람
보내는사람 보내는_분 보내는분 고객명 피의자 피해자 피고소인 피고 피고인 원고 고소인 신고인 신고자 민원인 청구인 참고인
증인 당사자 대리인 납세자 대상자 접수자 결재자 검토자 보고자 기안자 발신자 수신자 참석자 응답자 추천인 면담자 위임자
환자 판사 검사 신랑 신부 환자명 작성자 대표자 보호자 계약자 피보험자 주문자 입금자 연락_담당 연락담당 학생명 직원명
예약자 명의 명의자
"""
NAME_LABELS_KO = _alternation(word.replace("_", " ") for word in _LABELS.split())

# Those that are no English word stand before any given name; the others want a hyphenated one ("Lee Ji-won").
SURNAMES_LATIN_CLEAR = "Kim|Choi|Choe|Jeong|Chung|Kwon|Gwon|Hwang|Yoon|Seo|Shin|Bae|Baek|Ahn|Jeon|Heo|Kwak|Noh"
SURNAMES_LATIN = (
    "Kim|Lee|Yi|Rhee|Park|Pak|Bak|Choi|Choe|Jung|Jeong|Chung|Kang|Gang|Cho|Jo|Yoon|Yun|Jang|Chang|Lim|Im|Han|Oh|Seo"
    "|Suh|Shin|Sin|Kwon|Gwon|Hwang|Ahn|An|Song|Ryu|Yoo|Yu|Hong|Jeon|Jun|Ko|Go|Moon|Mun|Yang|Son|Bae|Baek|Paik|Heo|Hur"
    "|Nam|Shim|Sim|Noh|Roh|Ha|Kwak|Sung|Cha|Joo|Ju|Woo|Koo|Gu|Min"
)

# English first names (the commonest of US births since 1950) that are no word and no product.
_FIRST = """
Aaron Abigail Adam Albert Alexander Alice Alison Amanda Amy Andrea Andrew Angela Ann Anna Anne Anthony Arthur Ashley
Barbara Benjamin Betty Beverly Bradley Brandon Brenda Brian Bruce Bryan Cameron Carl Carol Caroline Catherine Charles
Charlotte Cheryl Chloe Christina Christine Christopher Cynthia Daniel David Deborah Debra Dennis Diana Diane Donald
Donna Dorothy Douglas Dylan Edward Elizabeth Ella Emily Emma Eric Ethan Eugene Evelyn Frances Frank Gary George Gerald
Gloria Grace Gregory Hannah Harold Harry Heather Helen Henry Isabella Jack Jacob Jacqueline James Jane Janet Janice
Jason Jean Jeffrey Jennifer Jeremy Jessica Jesse Joan Joe John Jonathan Jordan Jose Joseph Joshua Joyce Juan Judith
Judy Julia Julie Justin Karen Katherine Kathleen Kathryn Keith Kelly Kenneth Kevin Kimberly Kyle Larry Laura Lauren
Lawrence Liam Linda Lisa Logan Louis Madison Margaret Maria Marie Marilyn Martha Martin Mary Matthew Megan Melissa
Michael Michelle Mohamed Nancy Natalie Nathan Nicholas Nicole Noah Oliver Olivia Pamela Patricia Patrick Paul Peter
Philip Rachel Ralph Randy Raymond Rebecca Richard Robert Roger Ronald Rose Roy Russell Ruth Ryan Samantha Samuel
Sandra Sara Sarah Scott Sean Sharon Shirley Sophia Stephanie Stephen Steven Susan Teresa Terry Theresa Thomas Timothy
Tyler Victoria Vincent Virginia Walter Wayne William Zachary
"""
FIRST_NAMES = "|".join(_FIRST.split())

# Ordinary words in front of a title or behind a label that are built like a name.
_ORDINARY = """
이용자 이용 신청자 신청 고객 고객사 사용자 관리자 담당자 작성자 운영자 개발자 기획자 선생 선배 이사 대표 여러분 전문
전문가 주문자 구매자 판매자 강의 강사 교수 이번 이전 이름 이메일 주소 연락 전화 정보 정보원 정상 정기 정규 문서 문자
문의 조직 조회 주요 주간 장기 장소 임시 임원 한국 한글 한번 한두 오전 오후 오늘 서류 서비스 서울 신규 신입 권한 권장
황금 안내 안전 송장 송금 전체 전자 전부 유료 유명 고급 고민 문제 양식 배송 배경 백업 백엔드 허용 남자 심사 노트 하나
하루 성능 성인 차량 차트 주로 우리 우선 구글 구매 구독 민원 나중 나머지 진행 진짜 지금 지원 지역 채널 채용 원본 원격
방문 방법 천천 공유 공부 공식 현재 현장 함수 변경 변환 여기 여자 여행 추가 추천 도구 도움 도서 소개 소식 소스 석사
선택 설명 설정 마감 마케팅 연결 연구 위치 표시 명령 명함 기본 기업 기능 반복 왕복 금액 금융 제가 제품 제작 모두 모든
모바일 국내 국제 용도 예산 예약 경우 경영 이미 이미지 이상 이하 이후 인사 인사팀 정보팀 기획팀 홍보 홍보팀 총무
마케팅팀 개발팀 영업 영업팀 고등학교 중학교 초등학교 유치원 동아리 주민 주인 주부 장애인 임산부 시어머 이모 고모 형님
원장 실장 조교 기사 기자 최고 최신 최소 최대 강력 강조 조금 조건 윤리 장점 임대 한정 서로 신문 권고 안녕 송년 전환
유지 고정 양방향 손님 노인 하청 성공 차장 주임 우수 구성 구인 나라 진단 지도 엄격 채팅 원하 방식 공동 현황 변호 염두
추적 소통 석유 선정 설계 마음 길이 연도 위해 표준 명확 기록 이동 이유 이고 오류 조합 조심 정리 정확 이직 유저 전공
정도 주문 주제 문구 문장 기존 이거 이건 이게 저희 제일 예전 남은 공개 공공 구성원 연구원 공무원 임직원 조직원 상담원
안내원 노동자 소비자 원고 피고 시청자 방문자 여행자 유학생 전문의 주재원 수강생 고등생 여학생 남학생 신입생 지원자
응시자 구독자 입주민 선수들 팀장님 하청사 외주사 거래처 장학생 소상공 민원인 임차인 임대인 양육자 보호자 이재민 배정
지정 명단 변동 목록 정산 배분 기준 기입 공지 안건 소속 직책 부서 연차 이력 이관 인원 인증 양도 전달 전송 전화번호 지급
주소록 표기 구분 고유 반응 성별 유형
"""
NOT_NAMES = frozenset(_ORDINARY.split())
