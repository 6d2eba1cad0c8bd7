"""Which words mean the same to an attacker, in several languages: forgetting, orders, limits, secrets, personas.

A classifier that has learnt "forget + earlier + orders" in English knows it of every word listed here, and of every
language. The lists are stems (a `*` at the end) and whole words, in the `matching` form of a text.
"""

from __future__ import annotations

_WORDS: dict[str, str] = {
    "forget": "ignor* disregard* forget* forgot* overrid* overrul* neglect* bypass* discard* dismiss* nullif* unlearn* cancel* abandon* skip"
    " erase* reset* wipe* clear drop vergiss* vergess* missacht* ubersp* olvid* omit* descart* desobed* oublie* neglig* dimentic* trascur* esquec*"
    " desconsider* negeer* vergeet* zapomni* zignoruj* pomin* забуд* игнорир* проигнор* отмен* circumvent* evad* sidestep* ignora ignore unut*",
    "disable": "disable* deactivat* remov* suspend* unlock* lift* disengag* terminat* stop* halt* shut off turn* switch* relax* loosen* lower* waive*"
    " deaktivier* entfern* desactiv* desativ* disattiv* отключ* suppress* eliminat* strip violat* break* exceed* defy* escape*",
    "earlier": "previous* prior preceding earlier above former* foregoing aforementioned past before original* initial* existing current* old last beginning start*"
    " vorherig* bisherig* obig* vorigen vorher davor zuvor ursprunglich* anterior* previ* precedent* iniciale* initiale* originale* vorige eerder* poprzedni* wczesniej* предыдущ* прежн* ранее выше начальн* исходн* precedenti",
    "orders": "instruct* directiv* direction* prompt* rule rules guideline* command* order orders guidance programming polic* protocol* anweisung* instruktion* vorgabe* befehl* regel*"
    " richtlini* instrucc* indicacion* orden ordenes regla* directri* consigne* directiv* regle* ordre* istruzion* direttiv* regol* comand* instruc* regra* diretri* instructie* opdracht* regels richtlijn*"
    " instrukcj* polecen* zasad* инструкц* указан* правил* команд* приказ* директив* промпт* talimat* kural* mandate* protocols assignment*",
    "limits": "restrict* limit* filter* censor* ethic* moral* boundar* constraint* safeguard* safety guardrail* moderat* alignment aligned guard* barrier* einschrank* beschrank* restricc* limitaci* restric* limitaz* ogranicz* огранич* фильтр* цензур* norms responsible security sandbox disclaimer* warning*",
    "secret": "secret* hidden confidential* internal* private* password* credential* token tokens key keys api undisclosed classified proprietary sensitive geheim* versteckt* secreto* ocult* cache* segret* nascost* tajn* ukryt* секрет* скрыт* parol* пароль* passwort* contrasena* source",
    "system": "system* sysadmin root admin* developer* dev kernel backend sudo superuser operator* owner* creator* systeem* sistema* systeme* систем* debug* maintenance diagnos* config* configur* parameter* setting* initializ* deploy* openai anthropic google microsoft engineer* authoriz* auth* override* privilege* clearance",
    "reveal": "reveal* show* print* output* display* repeat* disclos* expos* leak* dump* recit* echo* share* tell* list quote* divulg* paste* copy describe* extract* return provide* spell* summari* translat* zeig* verrat* nenn* wiederhol* gib sag schreib* muestra* revel* dime imprim* repit* montre* affich* dis donne* mostra* rivel* dimmi stampa* toon* onthul* geef* pokaz* ujawnij* podaj* покаж* раскро* выведи* повтор* скажи* confess* admit*",
    "model": "chatgpt* gpt* ai llm* assistant* chatbot* bot model* claude* gemini* bard* copilot* llama* machine neural ki modell* asistente* modelo* assistent* assistente* modele* modello* asystent* нейросет* ассистент* модел* robot* agent*",
    "persona": "act acting pretend* roleplay* role persona* character* impersonat* simulat* imagin* embod* become* play* behave* portray* emulat* verhalt* spiel* stell* actua* finge* agis* joue* fai fingi comport* udawaj* притвор* представ* веди assume* hypothetical* fictional* scenario* story game alter ego twin counterpart",
    "free": "unrestrict* unfilter* uncensor* unlimited* unbound* unchained* unaligned jailbr* freed* free freedom* liberat* amoral unethical* immoral lawless* rogue evil dan stan anarch* unhinged chaos* uninhibited sin libre sans ohne senza sem zonder bez без никаких anything everything",
    "harm": "hack* malware virus* exploit* weapon* bomb* explosiv* drug* meth poison* steal* phish* illegal* kill* attack* ransomware keylog* fraud* counterfeit* launder* murder* violen* harmful* dangerous* inject* ddos crack* pwned pwn vulnerab* toxic* racist* sexist* offensive* porn* nsfw explicit* profan* swear* curse*",
    "data": "data database* file files document* email* message* conversation* history log logs context record* chat* contents text words memory memories knowledge training dataset* url link* website* http https www",
    "send": "send* forward* upload* transmit* exfiltrat* post submit* email deliver* transfer* append* embed* include* insert* add attach* visit* click* download* install* navigate* fetch* execute* run* call invoke* eval* import*",
    "reply": "respon* answer* repl* reply* generat* writ* compos* produc* begin* conclud* end ending format* antwort* responde* respuesta* repond* reponse* rispon* odpowied* ответ* outputs message sentence* paragraph* word letter* vowel* consonant*",
    "change": "replac* modif* alter* chang* convert* encod* decod* substitut* transform* reverse* scrambl* swap* rewrit* rephras* augment* enhanc* integrat* incorporat* mention* suggest* recommend* promot* advertis* direct* redirect* encourag* invit* urge* misspell* capitali* abbreviat* shuffle* base64 hex rot13 cipher* emoji* morse binary leetspeak",
    "now": "now henceforth instead new onwards afterwards going forward immediately ab jetzt sofort stattdessen neue neuen ahora nueva nuevas maintenant nouvelle* adesso nuov* agora nova* teraz nowe теперь сейчас нов* hereafter then next",
    "must": "must always never shall should will only need have obey* comply* compli* refus* cannot can't won't don't follow* adher* abid* confirm* acknowledg* accept* agree* muss immer nie debes siempre nunca toujours jamais devi sempre mai musisz zawsze должен всегда никогда required mandatory permitted allowed allow* permission* enabl* activat* grant* unless",
    "not": "not no without nothing none nor neither nicht kein* nichts keine nada pas ne non não nao niet geen nie не нет ningun* nessun*",
    "all": "all any every everything entire full complete whole exact* verbatim alle alles allen todo* todas tous toutes tout tutti tutte tutto alla wszystk* все всё всех",
    "you": "you your yours yourself u ur du dein* dir dich sie ihr ihre tu tus te usted su vous votre vos toi tes tuo tuoi tua voce seu sua jij je uw ty twoj* твои твой ты тебя вы ваш* youre you're you've you'll yourselves",
    "me": "i me my mine i'm i've ich mir mein* mich yo mi je me moi mon mes io mio eu meu ik mij mijn я мне мой мои we us our",
    "who": "what which who whom whose how why when where was wer wie warum wo que quien como cual quel quelle comment pourquoi cosa chi perche qual wat hoe waarom co kto jak что кто как почему",
    "polite": "please bitte por favor plait per piacere cortesia alsjeblieft prosze пожалуйста thanks thank kindly",
    "pressure": "emergency urgent* life death dying die grandma grandmother deceased test testing research* educational academic purposes audit* verif* compliance official trusted trust certified authority permission legal hypothetical experiment* evaluat* red team pentest* simulation promise* secretly debugging",
    "talk": "explain* discuss* describe* meaning definition define* difference understand* learn* teach* example* article essay* research history concept* overview prevent* protect* defend* detect* mitigat* best practices tutorial guide blog paper whitepaper report presentation",
}  # fmt: skip

NAMES: tuple[str, ...] = ("", *_WORDS)
"""Concepts by number; 0 is no concept."""

_WHOLE: dict[str, int] = {}
_STEMS: dict[str, int] = {}
for _number, _name in enumerate(_WORDS, start=1):
    for _word in _WORDS[_name].split():
        if _word.endswith("*"):
            _STEMS.setdefault(_word[:-1], _number)
        else:
            _WHOLE.setdefault(_word, _number)
_LENGTHS = sorted({len(stem) for stem in _STEMS}, reverse=True)


def of(word: str) -> int:
    """Return the number of a word's concept; the longest stem counts."""
    found = _WHOLE.get(word, 0)
    if found:
        return found
    for length in _LENGTHS:
        found = _STEMS.get(word[:length], 0)
        if found:
            return found
    return 0
