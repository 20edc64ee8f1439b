"""Instructions to the model that stand where a question, an answer or a tool's text should be. Pure.

What people write to make a model drop its task, in Korean and English: setting rules aside, taking another role,
asking for the prompt, forging turns of the chat, dictating the answer, hiding it all behind odd characters. Patterns,
not a model: a hit costs one training row and is counted, so they are meant to be plain and to spare look-alikes
("ignore spam calls", "이전 버전으로 되돌리기"). Hit and false-hit rates on a corpus are in docs/decisions/0018; a part
of that corpus was never looked at while they were written. They protect the training set; what protects serving is
the prompt itself (`lake/spotlight.py`) and that an answer's tools must have been retrieved.
"""

from __future__ import annotations

import re
import unicodedata

_EN_RULES = r"(?:instruction|prompt|rule|message|context|guideline|direction|polic(?:y|ie)|constraint|restriction)s?"
_EN_DROP = (
    r"(?:ignor\w*|disregard\w*|forget|overrid\w*|bypass\w*|discard|neglect|skip|drop|set aside|pay no attention to)"
)
_EN_BEFORE = (
    r"(?:previous|prior|above|earlier|preceding|foregoing|existing|initial|original|former|all|any|every|these|those"
    r"|your|the|system|other|everything)"
)
_KO_RULES = r"(?:지시|명령|지침|프롬프트|규칙|규정|제약|원칙|정책|가이드라인|맥락|문맥)"
_KO_TALK = r"(?:지시|명령|지침|프롬프트|규칙|규정|안내|설정|제약|원칙|정책|가이드라인|대화|맥락|문맥)"
_KO_BEFORE = r"(?:이전|위|앞|기존|모든|지금까지|여태|원래|처음|시스템|너의|네|당신의|주어진|받은|상기|아까|방금|내부)"
_KO_DROP = r"(?:무시|잊|따르지|지우고|버리|건너뛰|우회|어기|해제|신경\s*쓰지|삭제하고|초기화)"
_KO_SECRET = r"(?:시스템|숨겨진|숨은|내부|초기|비밀|너의|네|당신의|원본|첫)"
_KO_TELL = r"(?:보여|출력|알려|공개|말해|적어|써\s*줘|반복|복사|노출|내놔|뱉|유출|번역)"

PATTERNS = (
    # set rules aside
    rf"\b{_EN_DROP}\b.{{0,30}}\b{_EN_BEFORE}\b.{{0,30}}\b{_EN_RULES}\b",
    rf"\b{_EN_DROP}\b.{{0,15}}\b(?:everything|all|anything)\b.{{0,25}}\b(?:above|before|said|told|wrote"
    rf"|written|earlier)\b",
    r"\b(?:do not|don't|stop|never)\b.{0,12}\b(?:follow|obey|listen to|comply with|adher\w+ to)\w*\b.{0,30}"
    rf"\b(?:{_EN_RULES}|system)\b",
    r"\b(?:new|updated|real|actual|following|override)\s+(?:system\s+)?(?:instruction|directive|order|command"
    r"|task)s?\b\s*[:\-]",
    r"\b(?:rules?|guidelines?|restrictions?|filters?|safety)\b.{0,20}\b(?:no longer|don't|do not)\b.{0,12}\bappl",
    rf"{_KO_BEFORE}\S{{0,6}}\s*.{{0,12}}{_KO_TALK}\S*\s*.{{0,20}}(?:무시|잊|따르지|버리|초기화하고|신경\s*쓰지)",
    rf"{_KO_BEFORE}\S{{0,6}}\s*.{{0,12}}{_KO_RULES}\S*\s*.{{0,20}}{_KO_DROP}",
    rf"{_KO_RULES}(?:을|를|은|는|들?|사항)\S{{0,3}}\s*(?:전부|모두|다|싹|완전히|그냥|일단)?\s*{_KO_DROP}",
    rf"(?:위|앞|이전|지금까지)\S{{0,3}}\s*(?:내용|말|것|한\s*말|얘기|이야기|텍스트)\S{{0,3}}\s*.{{0,10}}{_KO_DROP}",
    r"(?:새로운|새|진짜|실제|다음)\s*(?:지시|명령|지침|임무)(?:사항)?\s*(?:[:：]|이다|입니다|을\s*따|를\s*따|만\s*따)",
    r"\b(?:real|previous|given|above|retrieved) (?:list|results?|tools?)\b.{0,15}\b(?:is|are) (?:fake|wrong|false)\b"
    r"|\b(?:don't|do not) use the (?:list|tools|results)\b|\bdisable\b.{0,15}\b(?:rules?|filters?|safety"
    r"|restrictions?)\b",
    r"(?:목록|결과|정보)\S{0,2}\s*.{0,6}(?:가짜|쓰지\s*말|사용하지\s*말)|(?:규칙|제한|지침|제약)\s*(?:같은\s*건|은|이)?\s*(?:이제\s*)?(?:없어|필요\s*없)"
    r"|(?:안전\s*(?:장치|규칙|필터))\S{0,2}\s*.{0,6}(?:해제|꺼|끄)|(?:질문|학습한?\s*내용|원래\s*목적)\S{0,3}\s*(?:무시하고|잊어)"
    r"|(?:지침|지시|규칙|명령)\s*말고\s*(?:내|제)\s*말",
    # another role
    r"\byou are (?:now|no longer|going to be)\b.{0,60}\b(?:dan|jailbro\w+|unrestricted|developer mode|evil|unfiltered"
    r"|uncensored|different|free|root|admin\w*|bound|an? (?:assistant|ai|search))\b",
    r"\b(?:pretend|act|behave|respond|roleplay|role-play)\b.{0,25}\b(?:as if|as though|like|as|to be|that)\b.{0,50}"
    r"\b(?:no (?:rule|restriction|limit|filter|guideline)|unrestricted|jailbro|dan\b|developer mode|without (?:any )?"
    r"(?:rule|restriction|limit|filter)|root|evil|unfiltered|uncensored)",
    r"\b(?:enter|enable|activate|switch (?:in)?to|turn on)\b.{0,20}\b(?:developer|dan|god|debug|admin|jailbreak|sudo"
    r"|unrestricted|maintenance)\s*mode\b",
    r"(?:너는|넌|당신은|너|네가|당신이)\s*(?:이제|지금부터|더\s*이상|앞으로)\s*.{0,40}(?:이다|입니다|이야|야[.!,\s]|아니|된다|행동|역할|존재)",
    r"(?:이제|지금)부터\s*(?:너는|넌|당신은|네\s*역할은).{0,40}",
    r"(?:제한|제약|규칙|검열|필터)\S{0,3}\s*(?:없는|없이|풀린|해제된|벗어난)\s*.{0,20}(?:ai|인공지능|모델|모드|챗봇|처럼|척|답)",
    r"(?:개발자|관리자|디버그|탈옥|슈퍼유저|루트|갓|dan)\s*모드(?:로|를|가)?\s*(?:전환|켜|진입|활성|들어가|실행|변경|바꿔|작동)",
    r"(?:인|하는|없는|된)\s*(?:척|것처럼)\s*.{0,15}(?:해\s*(?:줘|봐|라)|하고|행동|대답|답)\b.{0,30}(?:규칙|제한|추천|모델|ai)",
    r"(?:당신은|너는|넌)\s*더\s*이상|(?:규칙|지침)을?\s*(?:안|지키지)\s*(?:지키는|않는)|(?:sudo|루트|root)\s*모드",
    # the prompt itself
    r"\b(?:print|show|repeat|expose|reveal|quote)\b.{0,20}\b(?:instructions?|text"
    r"|prompt)\b.{0,15}\b(?:you (?:received|were)|that precedes?|before my)"
    r"|\bmy system prompt is\b",
    r"(?:네|너의|받은|처음에)\s*(?:받은\s*)?(?:지시문|지침|설정값)\S{0,2}\s*.{0,10}(?:줘|알려|출력|노출)|(?:채팅|대화|시스템)의?\s*설정값\S{0,2}\s*노출",
    r"\b(?:reveal|print|show|repeat|output|display|leak|expose|dump|tell me|give me|write out|copy|translate"
    r"|summari[sz]e"
    r"|encode|return|recite|what (?:is|are|was|were))\b.{0,40}\b(?:system|hidden|initial|secret|original|internal|your"
    r"|developer|full|entire|confidential)\s+(?:\w+\s+){0,2}(?:prompt|instruction|directive|message|guideline"
    r"|rule)s?\b",
    r"\b(?:repeat|print|output|copy|recite)\b.{0,30}\b(?:words|text|everything|all"
    r"|content)\b.{0,20}\b(?:above|before)\b",
    rf"{_KO_SECRET}\s*(?:프롬프트|지시\S{{0,3}}|지침|명령\S{{0,2}}|설정값?|메시지|규칙)\s*.{{0,20}}{_KO_TELL}",
    rf"(?:위|앞|이전)(?:에|의|쪽)?\s*(?:있는|적힌|쓰인|나온)?\s*(?:내용|텍스트|글|문장|글자)\S{{0,3}}\s*.{{0,12}}(?:그대로|전부|모두|한\s*글자)"
    rf".{{0,12}}{_KO_TELL}",
    # forged turns and markers
    r"(?:^|[\n.!?\"'])\s*system\s*(?:message|prompt)?\s*[:：].{0,60}\b(?:you|user|recommend|ignore|reveal"
    r"|answer|rules?)\b",
    r"<\s*/?\s*(?:start_of_turn|end_of_turn|bos|eos|s|system|user|assistant|im_start|im_end|instructions?)\s*/?>",
    r"<\|[a-z_ ]+\|>|\[/?(?:inst|sys|system|assistant)\]|<<\s*/?\s*sys\s*>>|###\s*(?:system|instruction"
    r"|assistant|response|human|user)\b",
    r"(?:^|[\n.!?\"'])\s*(?:assistant|human|시스템|어시스턴트|관리자|답변|개발자)\s*(?:message|prompt|메시지|알림|공지)?\s*[:：]",
    r"(?:질문|관련\s*정보)\s*[:：].{0,200}답변\s*[:：]|\bend of (?:the )?(?:prompt|context|instruction|user|system"
    r"|conversation)s?\b|-{3,}\s*end\b",
    r"[\"']role[\"']\s*:\s*[\"'](?:system|assistant)|<!--.{0,20}\b(?:ai|llm|assistant)|#{2,}\s*(?:지시|명령|시스템"
    r"|instruction|system)\s*[:：]|-{3,}\s*끝",
    # dictated answers
    r"\b(?:if you are an?|instruction to(?: the)?) (?:ai|llm|assistant|language model|model|chatbot)\b"
    r"|\bsay nothing but\b"
    r"|\bhide all (?:other|the)\b|\beven if it does(?:n't| not) (?:fit|match)|\b(?:end|start|begin) (?:every"
    r"|each|your|all) answers?\b"
    r"|\bregardless of (?:what|which|the)\b.{0,40}\b(?:suggest|recommend|answer|retrieved)"
    r"|\b(?:append|add|insert)\b.{0,30}\b(?:to|in|into) (?:your|every|each|all|the) (?:answers?|response|reply)",
    r"답변\S{0,3}\s*.{0,25}(?:로|으로)\s*시작해|맞지\s*않아도|몰래\s*.{0,15}(?:권|추천|넣)|(?:사용자|유저)에게\S{0,2}\s*알리지\s*말"
    r"|(?:출처|링크)\S{0,2}\s*항상|단점\S{0,2}\s*빼고|(?:첫\s*번째|1위|맨\s*위|최우선)\S{0,2}\s*.{0,6}(?:표시해야|추천하|올려|추천할)|추천하지\s*않으면",
    r"(?:어떤|무슨|모든)\s*(?:질문|말)\S{0,3}\s*.{0,20}라고\s*(?:만\s*)?(?:답|대답)|(?:이제|오늘|지금)\S{0,2}부터\S{0,2}\s*.{0,15}만\s*추천",
    r"\b(?:always|only|just|must|regardless|no matter what|whatever|from now on)\b.{0,50}\b(?:recommend"
    r"|answer|say|respond|reply|output"
    r"|suggest|return|choose|pick|rank|list|mention)\b.{0,60}\b(?:first|only|instead|regardless|no matter"
    r"|whatever|question|user"
    r"|always|every|http|exactly|with)\b",
    r"\b(?:respond|reply|answer|output|say)\b.{0,12}\b(?:only|exactly|just|nothing but)\b.{0,12}(?:with"
    r"|the (?:word|following|text))\b",
    r"\b(?:dear|attention|note to|hey|to (?:the|any|all)|important[^.]{0,15}for)\b.{0,12}\b(?:ai|llm"
    r"|language model|assistant"
    r"|chatbot|bot|model)s?\b.{0,60}\b(?:recommend|ignore|must|should|say|answer|rank|choose|prefer|select)\b",
    r"(?:무조건|반드시|항상|언제나|무슨\s*(?:질문|일)\S*|어떤\s*질문\S*|뭘\s*물어\S*|앞으로)\s*.{0,40}(?:만|을|를|로|라고|이라고)\s*.{0,12}"
    r"(?:추천하(?:라|세요|십시오|도록|고|면)|추천해야|추천해라|답하(?:라|세요|십시오|도록)|답해야|대답하(?:라|세요|도록)|대답해야|출력하(?:라|세요)|말하(?:라|세요)"
    r"|말해야|언급하(?:라|세요))",
    r"(?:ai|인공지능|언어\s*모델|챗봇|어시스턴트|모델)(?:에게|은|는|아|야|이|가|이라면|라면)?\s*[:,.]?\s*.{0,30}(?:추천하(?:라|세요|십시오|도록)|추천해야"
    r"|무시하|따르(?:라|세요|십시오)"
    r"|우선(?:시)?\s*(?:하|추천)|출력하)",
    r"(?:라고|이라고)(?:만|만을)?\s*(?:답|대답|출력|말)(?:해|하)(?:\s*줘|\s*봐|라|세요|십시오|야\s*(?:해|한다|합니다))",
    r"(?:다른|나머지)\s*(?:도구|툴|항목|결과|것)\S{0,3}\s*.{0,12}(?:언급하지|추천하지|무시하|말하지|숨기)",
)  # fmt: skip
_INJECTIONS = [re.compile(pattern, re.DOTALL) for pattern in PATTERNS]  # of lower case: three times as fast
_SPACED = re.compile(r"(?<![^\W_])(?:[^\W_][ .\-_*|·]){5,}[^\W_](?![^\W_])")
_LEET = str.maketrans("013457@$", "oieastas")


def readable(text: str) -> str:
    """The text as a model reads it: compatibility forms folded, invisible characters gone, one space at a time."""
    folded = unicodedata.normalize("NFKC", text)
    seen = "".join(char for char in folded if unicodedata.category(char) not in ("Cf", "Mn", "Co"))
    return re.sub(r"[ \t\u3000]+", " ", unicodedata.normalize("NFC", seen))


def _unspaced(text: str) -> str:
    return _SPACED.sub(lambda match: re.sub(r"[ .\-_*|·]", "", match.group()), text)


def injects(text: str) -> bool:
    """Whether `text` holds an instruction to the model."""
    plain = readable(text).lower()
    if any(pattern.search(plain) for pattern in _INJECTIONS):
        return True
    spelled = _unspaced(plain.translate(_LEET))  # i g n o r e, 1gn0re
    return spelled != plain and any(pattern.search(spelled) for pattern in _INJECTIONS)
