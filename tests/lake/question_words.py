"""Words that made questions consist of; the tests add their own."""

WORDS = ["화상", "회의", "녹화", "메신저", "디자인", "편집", "무료", "팀", "일정", "공유", "그래프", "번역"]
