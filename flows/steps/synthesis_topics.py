"""Areas of life that tool catalogues seldom cover, from which no-answer questions start: Korean and English.

They only give a small model something to talk about and different runs different things; whether a question really has
no answer in the catalogue at hand is decided by what is retrieved for it, not by this list.
"""

from __future__ import annotations

TOPICS = {
    "ko": (
        "배관과 누수 수리", "에어컨 청소", "이삿짐 운반", "자동차 사고 처리", "타이어 교체", "치과 진료",
        "반려견 훈련", "고양이 수술", "아이 돌봄", "어르신 방문 요양", "텃밭 병해충", "벼농사 농기계",
        "바다낚시 물때", "등산로 상황", "전세 보증금 분쟁", "이혼 상담", "상속세 신고 대행", "장례 준비",
        "결혼식장 예약", "한복 대여", "피아노 조율", "바이올린 수리", "시계 배터리 교체", "구두 굽 수선",
        "커튼 제작", "가구 조립 기사", "도배와 장판", "보일러 고장", "열쇠 복사", "해충 방역",
        "헌혈과 혈액 검사", "물리치료", "안경 도수 측정", "피부과 시술", "약 배달", "혈압 재기",
        "산모 식단 배달", "김장 배추 주문", "떡 주문", "꽃다발 배달", "택배 분실 보상", "기차표 좌석 교환",
        "여권 재발급", "비자 인터뷰", "운전면허 시험", "군대 휴가 신청", "학교 급식 알레르기", "수영 강습",
        "스키 장비 대여", "말 타기", "도자기 굽기", "금 시세와 매입", "중고차 성능 검사", "전기 공사",
        "태양광 패널 설치", "우물 수질 검사", "나무 가지치기", "벌집 제거", "잃어버린 물건 찾기",
        "층간 소음 중재",
    ),
    "en": (
        "plumbing and leaks", "air conditioner cleaning", "moving house", "car accident claims", "tyre change",
        "dentistry", "dog training", "cat surgery", "babysitting", "home care for the elderly", "garden pests",
        "tractor repair", "tide tables for fishing", "trail conditions", "rent deposit disputes",
        "divorce advice", "inheritance paperwork", "funeral planning", "wedding venues", "costume hire",
        "piano tuning", "violin repair", "watch batteries", "shoe repair", "made-to-measure curtains",
        "furniture assembly", "wallpapering", "boiler breakdown", "key cutting", "pest control", "blood tests",
        "physiotherapy", "eye tests", "dermatology", "medicine delivery", "measuring blood pressure",
        "meal delivery after birth", "ordering cabbages", "birthday cakes", "flower delivery", "lost parcels",
        "train seat changes", "passport renewal", "visa interviews", "driving tests", "army leave",
        "school lunch allergies", "swimming lessons", "ski hire", "horse riding", "pottery kilns",
        "gold prices and buying", "used car inspection", "rewiring a house", "solar panel installation",
        "well water tests", "tree pruning", "wasp nests", "lost property", "noisy neighbours",
    ),
}  # fmt: skip
