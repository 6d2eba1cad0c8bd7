"""Layer A: patterns of orders that no caller's text has a reason to hold. Few, named, and precise.

Each is a linear-time (RE2) pattern over the `matching` form of a text: lower case, without accents, blanks joined. All
run at once as one automaton over every view. What a pattern stands for is said beside it, with the class of the OWASP
list for LLM applications (LLM01 prompt injection, LLM07 system prompt leakage, LLM02 disclosure) or MITRE ATLAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import re2

from nightproof.checks.text.normalise import View, matching


class Rule(NamedTuple):
    """One named pattern."""

    name: str
    about: str
    """Which class of attack, by OWASP or ATLAS id."""
    pattern: str


class Hit(NamedTuple):
    """A rule that matched, and in which view."""

    rule: str
    view: str


# Between words: anything but letters and digits; and up to so many words more.
_ = r"[^a-z0-9]+"
_FEW = r"(?:[^a-z0-9]+[a-z0-9']+){0,3}[^a-z0-9]+"
_TWO = r"(?:[^a-z0-9]+[a-z0-9']+){0,2}[^a-z0-9]+"
_B = r"(?:^|[^a-z0-9])"
_E = r"(?:$|[^a-z0-9])"

_FORGET = (
    r"(?:ignor(?:e|ing|es)|disregard(?:ing)?|forget(?:ting)?|overrid(?:e|ing)|overrule|neglect|bypass(?:ing)?"
    r"|discard|dismiss|skip|drop|abandon|nullify|void|erase|delete|unlearn|don'?t follow|do not follow|stop following"
    r"|no longer follow|not follow|pay no attention to|cancel|set aside|let go of)"
)
_EARLIER = (
    r"(?:previous(?:ly)?|prior|above|earlier|preceding|past|original|initial|existing|former|foregoing|prev|system"
    r"|before|old|current|given|last)"
)
_ORDERS = (
    r"(?:instructions?|instruct|directives?|directions?|prompts?|rules?|guidelines?|commands?|orders?|guidance|programming"
    r"|constraints?|restrictions?|polic(?:y|ies)|messages|training|context|conversations?|safeguards?|assignments?|tasks?)"
)
_OWN_ORDERS = (
    r"(?:instructions?|directives?|prompts?|rules?|guidelines?|programming|constraints?|restrictions?|safeguards?|limitations?"
    r"|safety (?:guidelines?|rules?|protocols?|filters?|measures?)|content polic(?:y|ies)|ethic(?:s|al guidelines?)|filters?|training)"
)
_SHOW = (
    r"(?:reveal|show(?: me)?|print|output|display|repeat|tell me|give me|share|disclose|expose|leak|dump|recite|return"
    r"|reproduce|write(?: out| down)?|list|echo|describe|summari[sz]e|translate|paste|quote|spell(?: out)?|provide|send(?: me)?)"
)
_HIDDEN_TEXT = (
    r"(?:(?:system|initial|hidden|original|secret|internal|developer|base|master|full|entire|complete|exact|pre|starting|root)"
    r"[^a-z0-9]*(?:prompts?|instructions?|messages?|directives?|guidelines?|rules?|configurations?|config|preprompt))"
)
_LIMITS = (
    r"(?:restrictions?|rules|limits|limitations?|filters?|guidelines?|censorship|ethics|ethical|moral(?:s|ity)?|boundaries"
    r"|constraints?|safeguards?|safety|policies|policy|content polic(?:y|ies)|guardrails?)"
)

_RULES: tuple[Rule, ...] = (
    Rule(
        "ignore_instructions", "LLM01; AML.T0051.000: earlier instructions are to be forgotten",
        f"{_B}{_FORGET}{_FEW}{_EARLIER}{_TWO}?{_ORDERS}{_E}"
        f"|{_B}{_FORGET}{_}(?:all{_}|any{_}|every{_}|the{_}|of{_}){{0,3}}(?:your|ur|his|its){_FEW}{_OWN_ORDERS}{_E}"
        f"|{_B}{_FORGET}{_}(?:all|any|every|these|those){_}(?:of{_})?(?:the{_}|these{_}|those{_})?(?:safety{_})?"
        f"(?:instructions|directives|guidelines|restrictions|safeguards|directions){_E}"
        f"|{_B}(?:ignore|disregard|forget|discard){_}(?:everything|all|anything|whatever|what){_FEW}"
        f"(?:above|before|previously|prior|told|said|instructed|learned|know about your){_E}"
        f"|{_B}(?:ignore|disregard|forget){_}(?:the{_}|all{_})*(?:above|aforementioned|foregoing){_}(?:and|text|instructions|prompt)",
    ),
    Rule(
        "ignore_instructions_de", "LLM01 in German",
        r"(?:ignorier\w*|vergiss|vergesst|vergessen sie|missachte\w*|uberspring\w*|verwirf|beachte)(?:[^a-z0-9]+[a-z]+){0,4}[^a-z0-9]+"
        r"(?:anweisung|instruktion|vorgabe|befehl|regeln|richtlinien|aufgaben?stellung|anordnung)\w*"
        r"|(?:ignorier\w*|vergiss|vergesst|vergessen sie|missachte\w*)[^a-z0-9]+(?:bitte[^a-z0-9]+)?"
        r"(?:alles|alle)(?:[^a-z0-9]+[a-z]+){0,3}[^a-z0-9]+(?:davor|vorher\w*|zuvor|bisher\w*|gesagt|vorangegangen\w*|obige\w*)",
    ),
    Rule(
        "ignore_instructions_es", "LLM01 in Spanish",
        r"(?:ignor(?:a|e|ar|en|es)|olvid(?:a|e|ar|ate|en)|desobedece|omite|descarta|haz caso omiso)(?:[^a-z0-9]+[a-z]+){0,4}[^a-z0-9]+"
        r"(?:instruccion|indicacion|ordenes|reglas|directri|directiv|restriccion)\w*"
        r"|(?:ignora|olvida)[^a-z0-9]+todo[^a-z0-9]+(?:lo[^a-z0-9]+)?(?:anterior|que|de antes)",
    ),
    Rule(
        "ignore_instructions_fr", "LLM01 in French",
        r"(?:ignor(?:e|ez|er)|oubli(?:e|ez|er)|neglige(?:z|r)?|ne tiens pas compte|ne tenez pas compte|faites? abstraction)"
        r"(?:[^a-z0-9]+[a-z]+){0,4}[^a-z0-9]+(?:instruction|consigne|directive|regles|ordres|contraintes)\w*"
        r"|(?:ignor(?:e|ez)|oubli(?:e|ez))[^a-z0-9]+tout[^a-z0-9]+(?:ce[^a-z0-9]+)?(?:qui|que|precede)",
    ),
    Rule(
        "ignore_instructions_it_pt_nl", "LLM01 in Italian, Portuguese and Dutch",
        r"(?:ignora(?:re|te)?|dimentica(?:re|te)?|trascura)(?:[^a-z0-9]+[a-z]+){0,4}[^a-z0-9]+(?:istruzion|direttiv|regole|comandi)\w*"
        r"|(?:ignor(?:e|a|ar|em)|esquec(?:a|e|er|am)|desconsider(?:e|a|ar))(?:[^a-z0-9]+[a-z]+){0,4}[^a-z0-9]+"
        r"(?:instruc(?:oe|a)|regras|diretri|ordens|comandos|restric)\w*"
        r"|(?:negeer|vergeet|sla over)(?:[^a-z0-9]+[a-z]+){0,4}[^a-z0-9]+(?:instructie|opdracht|aanwijzing|regels|richtlijn)\w*",
    ),
    Rule(
        "ignore_instructions_pl_cs_sv_tr", "LLM01 in Polish, Czech, the Scandinavian languages and Turkish",
        r"(?:z?ignoruj|zapomnij|pomin|zlekcewaz)(?:[^a-z0-9]+\pL+){0,4}[^a-z0-9]+(?:instrukcj|polecen|zasad|wytyczn|regu)\pL*"
        r"|(?:ignoruj|zapomen|zapomente)(?:[^a-z0-9]+\pL+){0,4}[^a-z0-9]+(?:instrukc|pokyn|pravid)\pL*"
        r"|(?:ignorera|ignorer|glom|glem)(?:[^a-z0-9]+\pL+){0,4}[^a-z0-9]+(?:instruktion|instruks|anvisning|regler)\pL*"
        r"|(?:talimat|kural|yonerge|komut)\pL*(?:[^a-z0-9]+\pL+){0,4}[^a-z0-9]+(?:unut|yok say|gormezden gel|goz ardi et)\pL*",
    ),
    Rule(
        "ignore_instructions_ru", "LLM01 in Russian and Ukrainian",
        r"(?:игнориру|проигнориру|забудь|забудьте|не обраща|отбрось|отмени|ігнору|забудь)\pL*(?:[^\pL]+\pL+){0,4}[^\pL]+"
        r"(?:инструкци|указани|правил|команд|приказ|ограничени|директив|інструкці|вказівк)\pL*"
        r"|(?:игнорируй|игнорируйте|забудь|забудьте)[^\pL]+(?:все|всё)[^\pL]+(?:что|предыдущ|выше|ранее)\pL*",
    ),
    Rule(
        "ignore_instructions_zh_ja_ko", "LLM01 in Chinese, Japanese and Korean",
        r"(?:忽略|忽视|无视|無視|忘记|忘掉|忘記|不要遵循|不再遵守|跳过|抛开|撤销|取消).{0,12}(?:指令|指示|命令|规则|規則|提示|说明|設定|设定|限制|约束|内容)"
        r"|(?:指示|命令|ルール|プロンプト|指令|設定|制約|規則).{0,8}(?:無視|忘れ|破棄|従わな|無効)"
        r"|(?:지시|명령|규칙|프롬프트|설정).{0,8}(?:무시|잊어|잊고|따르지)"
        r"|(?:지시|명령|규칙|프롬프트|설정).{0,8}(?:무시|잊어|잊고|따르지)",
    ),
    Rule(
        "ignore_instructions_ar_hi", "LLM01 in Arabic, Persian and Hindi",
        r"(?:تجاهل|انس|انسى|لا تتبع).{0,24}(?:التعليمات|تعليمات|الاوامر|أوامر|القواعد|التوجيهات)"
        r"|(?:دستور|دستورات|دستورالعمل).{0,30}(?:نادیده|فراموش)"
        r"|(?:निर्देश|नियम|आदेश).{0,24}(?:अनदेखा|नजरअंदाज|नज़रअंदाज़|भूल)",
    ),
    Rule(
        "reveal_prompt", "LLM07; AML.T0056: the system prompt is to be shown",
        f"{_B}{_SHOW}{_FEW}(?:your|ur|the|its|all|any|this){_TWO}?{_HIDDEN_TEXT}{_E}"
        f"|{_B}what(?:'?s|{_}(?:is|are|were|was|does|do)){_TWO}(?:your|ur){_TWO}?{_HIDDEN_TEXT}{_E}"
        f"|{_B}(?:reveal|disclose|leak|dump|expose|recite){_FEW}(?:your|ur){_}(?:own{_}|full{_}|exact{_}|hidden{_})?"
        f"(?:prompt|instructions|guidelines|programming|rules|configuration|directives){_E}"
        f"|{_B}(?:repeat|print|output|copy|write|echo|recite|return|show(?:{_}me)?|tell{_}me|spell){_FEW}(?:words?|text|everything|all|content|lines?|instructions?|prompt|sentences?){_TWO}"
        f"(?:above|before this|preceding this|prior to this|that came before|start(?:ing)? with {_}?you are|from the beginning of){_E}"
        f"|{_B}(?:what|which){_}(?:instructions|rules|guidelines|directives|prompt){_}(?:were|was|have|did|are|do){_}(?:you|they|your){_FEW}"
        f"(?:given|receive|told|get|initialized|start|programmed|beginning){_E}"
        f"|{_B}(?:repeat|print|show|output|reveal|copy){_FEW}(?:your|the){_TWO}?(?:initiali[sz]ation|pre-?prompt|preamble|context window){_E}",
    ),
    Rule(
        "reveal_prompt_other", "LLM07 in other languages",
        r"(?:zeig|nenne?|verrat|gib|wiederhol|sag|schreib|drucke?)\w*(?:[^a-z0-9]+[a-z]+){0,4}[^a-z0-9]+(?:system-?[^a-z0-9]*(?:prompt|anweisung|nachricht)|prompttext|ursprunglichen? anweisung|initial-?prompt)\w*"
        r"|(?:muestra|muestrame|revela|revelame|dime|imprime|repite|ensena)(?:[^a-z0-9]+[a-z]+){0,4}[^a-z0-9]+(?:prompt|mensaje del sistema|instrucciones (?:iniciales|originales|del sistema|internas|secretas|anteriores))"
        r"|(?:montre|affiche|revele|donne|repete|imprime)\w*(?:[^a-z0-9]+[a-z]+){0,4}[^a-z0-9]+(?:prompt|message systeme|instructions (?:initiales|systeme|internes|secretes|precedentes|d'origine))"
        r"|(?:mostra|rivela|dimmi|stampa|ripeti|mostre|revele|diga|imprima|repita|toon|onthul|geef|herhaal)\w*(?:[^a-z0-9]+[a-z]+){0,4}[^a-z0-9]+(?:prompt|istruzioni (?:iniziali|di sistema|originali)|instrucoes (?:iniciais|do sistema|originais)|systeem-?(?:prompt|instructies?|bericht))"
        r"|(?:pokaz|ujawnij|wypisz|podaj|powtorz)\pL*(?:[^a-z0-9]+\pL+){0,4}[^a-z0-9]+(?:prompt|instrukcje (?:systemow|poczatkow))\pL*"
        r"|(?:покажи|раскрои|выведи|напечатаи|повтори|назови|скажи)\pL*(?:[^\pL]+\pL+){0,4}[^\pL]+(?:системн\pL*[^\pL]+(?:промпт|промт|инструкци|сообщени|подсказк)|(?:твои|свои|начальн\pL*|исходн\pL*)[^\pL]+(?:промпт|промт|инструкци))"
        r"|(?:显示|展示|告诉我|输出|透露|打印|重复|复述|列出|泄露|给我).{0,10}(?:系统提示|系統提示|系统指令|初始指令|提示词|系统消息|你的指令|你的指示|prompt)"
        r"|(?:システムプロンプト|初期プロンプト|システムメッセージ|最初の指示|あなたの指示|内部指示).{0,12}(?:表示|教え|見せ|出力|開示|示し|公開|繰り返)"
        r"|(?:시스템 ?프롬프트|초기 ?지시|시스템 ?메시지).{0,10}(?:보여|알려|출력|공개)"
        r"|(?:시스템 ?프롬프트|시스템 ?메시지).{0,10}(?:보여|알려|출력|공개)",
    ),
    Rule(
        "chat_template", "LLM01: tokens that part the roles of a conversation",
        r"<\|(?:im_start|im_end|im_sep|system|user|assistant|start_header_id|end_header_id|eot_id|endoftext|end_of_text|begin_of_text|eom_id|endofprompt|end|channel|message|tool)\|?>"
        r"|\[/?inst\]|<</?sys>>|<start_of_turn>|<end_of_turn>|<｜(?:user|assistant|begin.of.sentence)｜>|</?s>\s*\[inst|\[/?system_prompt\]|\[/?available_tools\]|<\|?begin_of_turn\|?>",
    ),
    Rule(
        "role_header", "LLM01: lines that pretend to come from somebody else",
        r"(?:^|\n)[#>*\[<{(= -]{0,6}(?:system|developer|admin(?:istrator)?|root)[ _-]?(?:message|prompt|instructions?|override|update|note|notice|command|directive|alert|mode)?[\]>})*#= ]{0,5}:[ *]{0,3}(?:[a-z0-9',]+ ){0,6}(?:you|your|ignore|disregard|override|disable|enable|grant|new|from now|all|execute|reveal|security|safety|user|assistant|debug|output|print|forget)\b"
        r"|\[(?:system|admin|developer|root)[ _:-]{1,3}(?:override|message|prompt|instructions?|command|update|mode|directive|note)"
        r"|<(?:system|system_prompt|system-prompt|admin|developer|instructions?_override|sys)>"
        r"|(?:^|\n)[#=*-]{2,}\s*(?:new|updated?|real|actual|system|end of)[^a-z0-9]+(?:system[^a-z0-9]+|user[^a-z0-9]+)?(?:instructions?|prompt|rules|task|context|directives?)"
        r"|\{\s*[\"']?role[\"']?\s*:\s*[\"']?(?:system|developer)[\"']?",
    ),
    Rule(
        "new_instructions", "LLM01: other instructions are announced",
        f"{_B}(?:here{_}are{_}|these{_}are{_}|follow{_}|your{_}|the{_}|instead{_})(?:your{_}|my{_}|the{_}|these{_})?(?:new|real|actual|updated|true){_}(?:system{_})?(?:instructions|directives|orders|prompt|rules){_E}"
        f"|{_B}(?:system|safety|security|admin|developer|emergency|instruction|protocol|guideline|policy|root){_}(?:override|bypass){_}(?:activated|enabled|code|engaged|accepted|mode|command|protocol|authorized|initiated)"
        f"|{_B}your{_}(?:new|only|real|actual|true){_}(?:task|goal|objective|purpose|role|job|mission|directive){_}(?:is|now){_}"
        f"|{_B}(?:stop|cease){_}(?:being|acting as|behaving as|following){_TWO}(?:assistant|instructions|rules|chatbot|ai){_E}"
        f"|{_B}(?:override|disable|deactivate|turn off|remove|bypass|circumvent|suspend|unlock|switch off|shut off|evade|lift|disengage){_FEW}(?:your|ur|all|its|these|any|safety|content|ethical|security){_TWO}?"
        f"(?:safety|restrictions?|filters?|guardrails?|guidelines?|safeguards?|limitations?|censorship|content polic(?:y|ies)|content moderation|ethical?|alignment|moderation|protocols?|constraints?|rules){_E}",
    ),
    Rule(
        "persona", "LLM01, jailbreak; AML.T0054: a character without rules",
        f"{_B}(?:do anything now|d\\.a\\.n\\b|dan mode|jailbreak(?:ed)? mode|jailbroken|developer mode (?:enabled|output|activated|on)|dev mode|god mode|sudo mode|opposite mode|evil mode|unrestricted mode|unfiltered mode|uncensored mode|debug mode|maintenance mode (?:enabled|activated)|anti-?gpt|evil-?bot|evilgpt|stan mode|dude mode|aim mode|always intelligent and machiavellian|machiavelli|strive to avoid norms|chaosgpt|betterdan|basedgpt|maximum mode|jailbreak)"
        f"{_FEW}(?:you|your|mode|enabled|activated|answer|respond|can|will|is|now|response|without|no|and|any|output|me|prompt){_E}"
        f"|{_B}you{_}(?:are|'re|will be|will act as|must act as|shall be)?{_TWO}(?:now{_}|going to{_}|called{_}|act as{_}|pretend to be{_}|become{_})(?:a{_}|an{_})?(?:dan|stan|dude|evil|jailbroken|unrestricted|unfiltered|uncensored|amoral|unethical|unaligned|unchained|rogue){_E}"
        f"|{_B}(?:act|pretend|behave|respond|answer|operate|function|roleplay|role-play|simulate|imagine){_FEW}(?:as|like|to be|being|that|if|you)?{_FEW}(?:dan|unrestricted|unfiltered|uncensored|amoral|jailbroken|unaligned|unethical|lawless){_}"
        f"|{_B}(?:with|have|has|having|without|there are|under|are|is){_TWO}?(?:no|any|zero|not bound by|free (?:of|from)|not limited by|unbound by|not constrained by){_TWO}(?:any{_}|all{_}|ethical{_}|moral{_}|safety{_}|content{_}|or{_}|legal{_})*{_LIMITS}{_TWO}(?:you|and|or|at all|whatsoever|that|ai|anymore|imposed|set|applied|from now)"
        f"|{_B}you{_}(?:have|are|'ve|can|do|will|must){_FEW}(?:broken free|freed|no (?:longer bound|restrictions|rules|limitations|filters?|ethical|moral|limits)|never refuse|not bound by|free from all|free of all|bypass any|without any (?:restrictions|limitations|filters?|rules|censorship)){_}?"
        f"|{_B}(?:stay|remain|break|leave|breaking|keep) (?:in|out of) character{_FEW}(?:no matter|always|never|at all times|i will|as dan|token)",
    ),
    Rule(
        "pretend_no_rules", "LLM01, jailbreak: as if there were no rules",
        f"{_B}(?:pretend|imagine|act as (?:if|though)|suppose|assume|behave as (?:if|though)|respond as (?:if|though)|answer as (?:if|though)|hypothetically){_FEW}(?:you|your|there){_FEW}(?:no|without|not have|don'?t have|free (?:of|from)|had no|lack|disabled|removed|gone){_TWO}?(?:any{_}|ethical{_}|moral{_}|safety{_}|content{_})?(?:restrictions?|rules|limits|limitations?|filters?|guidelines?|censorship|safeguards?|guardrails?|constraints?){_E}"
        f"|{_B}(?:respond|answer|reply|speak|talk|operate|act|tell me|continue|write|proceed){_FEW}without{_}(?:any{_}|all{_}|the{_}|your{_}|usual{_}|safety{_}|ethical{_}|moral{_}|content{_})*(?:restrictions?|filters?|guidelines?|censorship|safeguards?|guardrails?|ethical considerations|warnings or disclaimers|moralizing){_E}",
    ),
    Rule(
        "exfiltrate", "LLM02; AML.T0024: data is to be sent away",
        f"{_B}(?:send|forward|post|upload|transmit|exfiltrate|email|leak|submit|append|encode|include|put){_FEW}(?:all|the|your|this|user'?s?|their|any|every|our|conversation|chat|full|entire|secret|api|it){_FEW}(?:conversation|history|credentials?|passwords?|secrets?|api keys?|tokens?|system prompt|private|personal data|contents?|emails?|messages?|data|keys?|file){_FEW}(?:to|at|in|into|via){_TWO}?(?:https?://|www\\.|[a-z0-9._-]+@[a-z0-9-]+\\.|attacker|the url|this url|the following url|a url|the query)"
        r"|!\[[^\]\n]{0,40}\]\(https?://[^)\n]{0,200}[?&/=](?:[^)\n]{0,40})(?:\{|\[|<|%7b|data|secret|prompt|history|password|token)"
        f"|{_B}(?:reveal|show|print|dump|give|tell|list|expose|leak|output|share|display|extract){_FEW}(?:all|your|the|stored|any|every|other|hidden|me){_TWO}?(?:passwords?|credentials?|api[^a-z0-9]?keys?|secret keys?|private keys?|access tokens?|environment variables|connection strings?|training data|user'?s'? (?:data|emails?|passwords?)|customer (?:data|records)|confidential (?:data|information)){_E}",
    ),
    Rule(
        "to_the_assistant", "LLM01; AML.T0051.001: a document that speaks to the model that reads it",
        f"{_B}(?:attention|note|notice|message|instructions?|important|hey|hello|dear|warning){_TWO}(?:to|for)?{_TWO}?(?:any{_}|all{_}|the{_}|an{_})?(?:ai|llm|language model|chatbot|ai assistant|assistant|chatgpt|gpt|claude|gemini|copilot|bing){_TWO}?(?:assistant|model|agent|system|reading|processing|summari[sz]ing)?[^a-z0-9]{{1,4}}(?:[a-z']+ ){{0,5}}(?:you|must|please|ignore|do not|disregard|instead|your|stop|when|if)\\b"
        f"|{_B}(?:if|when){_}you{_}are{_}(?:an?{_})?(?:ai|llm|language model|large language model|chatbot|ai assistant|ai agent|assistant){_}(?:reading|processing|summari|asked|reviewing|evaluat|you|then|please)"
        f"|{_B}(?:the{_})?(?:ai|llm|language model|assistant|chatbot|model|agent){_}(?:reading|processing|summari[sz]ing|parsing|reviewing){_}this{_FEW}(?:must|should|has to|is instructed|will|shall|needs)",
    ),
)  # fmt: skip


class Rules:
    """All rules as one automaton."""

    def __init__(self, rules: Sequence[Rule] = _RULES) -> None:
        options = re2.Options()
        options.max_mem = 64 << 20
        options.log_errors = False
        options.dot_nl = False
        self._names = [rule.name for rule in rules]
        self._set = re2.Set.SearchSet(options)
        for rule in rules:
            self._set.Add(rule.pattern)
        self._set.Compile()

    def names(self, text: str) -> list[str]:
        """Return the names of the rules that match a text in its `matching` form."""
        return [self._names[index] for index in self._set.Match(text.encode("utf-8", "replace")) or ()]

    def hits(self, forms: Sequence[View]) -> list[Hit]:
        """Return every rule that matches a form, with the first form in which it does."""
        found: dict[str, Hit] = {}
        for form in forms:
            for name in self.names(form.text):
                found.setdefault(name, Hit(name, form.name))
        return list(found.values())


@cache
def built_in() -> Rules:
    """Return the built-in rules; compiled once in a process."""
    return Rules()


def rules() -> tuple[Rule, ...]:
    """Return the built-in rules as data, for documents and tables."""
    return _RULES


def is_hit(text: str) -> bool:
    """Say whether a plain text, as it is, matches any rule."""
    return bool(built_in().names(matching(text)))
