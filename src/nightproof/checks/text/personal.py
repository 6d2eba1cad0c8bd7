"""Personal data by local rules: what a pattern and a checksum can tell. Names and addresses need Presidio's extra."""

from __future__ import annotations

import ipaddress
import re
from functools import cache

from nightproof.checks.text.named import NamedPattern, Patterns

_IBAN_LENGTHS = {
    code: int(length)
    for code, length in (
        part.split(":")
        for part in [
            "AD:24",
            "AE:23",
            "AL:28",
            "AT:20",
            "AZ:28",
            "BA:20",
            "BE:16",
            "BG:22",
            "BH:22",
            "BR:29",
            "BY:28",
            "CH:21",
            "CR:22",
            "CY:28",
            "CZ:24",
            "DE:22",
            "DK:18",
            "DO:28",
            "EE:20",
            "EG:29",
            "ES:24",
            "FI:18",
            "FO:18",
            "FR:27",
            "GB:22",
            "GE:22",
            "GI:23",
            "GL:18",
            "GR:27",
            "GT:28",
            "HR:21",
            "HU:28",
            "IE:22",
            "IL:23",
            "IQ:23",
            "IS:26",
            "IT:27",
            "JO:30",
            "KW:30",
            "KZ:20",
            "LB:28",
            "LC:32",
            "LI:21",
            "LT:20",
            "LU:20",
            "LV:21",
            "LY:25",
            "MC:27",
            "MD:24",
            "ME:22",
            "MK:19",
            "MR:27",
            "MT:31",
            "MU:30",
            "NL:18",
            "NO:15",
            "PK:24",
            "PL:28",
            "PS:29",
            "PT:25",
            "QA:29",
            "RO:24",
            "RS:22",
            "SA:24",
            "SC:31",
            "SE:24",
            "SI:19",
            "SK:24",
            "SM:27",
            "ST:25",
            "SV:28",
            "TL:23",
            "TN:24",
            "TR:26",
            "UA:29",
            "VA:22",
            "VG:24",
            "XK:20",
        ]
    )
}
_CARDS = re.compile(
    r"4\d{12}(?:\d{3}|\d{6})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}(?:\d{3})?|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
_NOT_DIGITS = re.compile(r"\D")


def patterns() -> list[NamedPattern]:
    """Return the kinds of personal data, each with what makes sure of it."""
    return [
        NamedPattern(
            "email",
            r"(?:^|[^A-Za-z0-9._%+-])([A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}\.)(?:[A-Za-z0-9-]{1,63}\.){0,3}[A-Za-z]{2,24})\b",
            200,
        ),
        NamedPattern("iban", r"\b([A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?)\b", 42, is_iban),
        NamedPattern("card", r"(?:^|[^0-9A-Za-z.-])([2-6][0-9]{3}(?:[ -]?[0-9]{2,6}){2,4})\b", 28, is_card),
        NamedPattern("us_ssn", r"(?:^|[^0-9A-Za-z-])([0-8][0-9]{2}-[0-9]{2}-[0-9]{4})\b", 12, _is_ssn),
        NamedPattern("de_tax_id", r"(?:^|[^0-9A-Za-z])([1-9][0-9] ?[0-9]{3} ?[0-9]{3} ?[0-9]{3})\b", 15, _is_german_tax_id),
        NamedPattern("es_dni", r"(?:^|[^0-9A-Za-z])((?:[0-9]{8}|[XYZ][0-9]{7})-?[A-HJ-NP-TV-Z])\b", 10, _is_spanish_id),
        NamedPattern("it_fiscal_code", r"\b([A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z])\b", 16, _is_fiscal_code),
        NamedPattern("fr_nir", r"(?:^|[^0-9A-Za-z])([12] ?[0-9]{2} ?(?:0[1-9]|1[0-2]) ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2})\b", 21, _is_french_nir),
        NamedPattern("pl_pesel", r"(?:^|[^0-9A-Za-z])([0-9]{11})\b", 11, _is_pesel),
        NamedPattern("nl_bsn", r"(?i:\b(?:bsn|burgerservicenummer)\W{1,4})([0-9]{8,9})\b", 40, _is_bsn),
        NamedPattern("br_cpf", r"(?:^|[^0-9A-Za-z])([0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2})\b", 14, _is_cpf),
        NamedPattern("uk_nhs", r"(?i:\bnhs\W{1,3}(?:number|no\.?)?\W{0,4})([0-9]{3} ?[0-9]{3} ?[0-9]{4})\b", 40, _is_nhs),
        NamedPattern("ip", r"(?:^|[^0-9A-Za-z.])((?:[0-9]{1,3}\.){3}[0-9]{1,3})(?:$|[^0-9A-Za-z.]|\.(?:$|[^0-9]))", 16, _is_public_ip),
        NamedPattern("ip", r"(?:^|[^0-9A-Fa-f:.])((?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{1,4})(?:$|[^0-9A-Za-z:])", 41, _is_public_ip),
        NamedPattern("phone", r"(?:^|[^0-9A-Za-z+])(\+[1-9][0-9]{0,2}(?:[ ./-]?\(?0?[0-9]{1,5}\)?){2,6})\b", 32, _is_phone),
        NamedPattern("phone", r"(?i:\b(?:tel|telefon|telephone|phone|mobile|mobil|cell|call|fax|handy|ring)\W{1,4})(00[1-9][0-9]{0,2}(?:[ ./-]?\(?0?[0-9]{1,5}\)?){2,6})\b", 48, _is_phone),
        NamedPattern("phone", r"(?:^|[^0-9A-Za-z+.-])(\(?[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[ .-][0-9]{4})\b", 20),
    ]  # fmt: skip


@cache
def built_in() -> Patterns:
    """Return them compiled, once in a process."""
    return Patterns(patterns())


def _digits(text: str) -> list[int]:
    return [int(digit) for digit in _NOT_DIGITS.sub("", text)]


def _is_phone(text: str) -> bool:
    """E.164: a country and at most fifteen digits."""
    return 8 <= len(_digits(text.removeprefix("00"))) <= 15


def is_iban(text: str) -> bool:
    """ISO 13616: the country's length, and 1 as the rest of division by 97."""
    compact = text.replace(" ", "")
    if _IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1


def is_card(text: str) -> bool:
    """Say whether it is a payment card's number: a known prefix and length, and the Luhn sum."""
    compact = _NOT_DIGITS.sub("", text)
    return bool(_CARDS.fullmatch(compact)) and luhn(compact) and len(set(compact)) > 1


def luhn(digits: str) -> bool:
    """Say whether the Luhn sum holds."""
    doubled = [int(digit) for digit in digits[-2::-2]]
    return (sum(int(digit) for digit in digits[-1::-2]) + sum(2 * d - 9 * (d > 4) for d in doubled)) % 10 == 0


def _is_ssn(text: str) -> bool:
    area, group, serial = text.split("-")
    return area not in ("000", "666") and group != "00" and serial != "0000"


def _is_german_tax_id(text: str) -> bool:
    """ISO 7064 MOD 11,10; of the first ten digits one comes twice or three times."""
    digits = _digits(text)
    times = [digits[:10].count(digit) for digit in range(10)]
    if len(digits) != 11 or sorted(count for count in times if count > 1) not in ([2], [3]):
        return False
    product = 10
    for digit in digits[:10]:
        product = ((digit + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == digits[10]


def _is_spanish_id(text: str) -> bool:
    compact = text.replace("-", "")
    number = int(compact[:-1].translate(str.maketrans("XYZ", "012")))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == compact[-1]


_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)  # fmt: skip


def _is_fiscal_code(text: str) -> bool:
    total = sum(_ODD[char] for char in text[:15:2])
    total += sum(int(char) if char.isdigit() else ord(char) - ord("A") for char in text[1:15:2])
    return chr(ord("A") + total % 26) == text[15]


def _is_french_nir(text: str) -> bool:
    compact = text.replace(" ", "").replace("2A", "19").replace("2B", "18")
    return compact.isdigit() and 97 - int(compact[:13]) % 97 == int(compact[13:])


def _is_pesel(text: str) -> bool:
    digits = _digits(text)
    month, day = digits[2] * 10 + digits[3], digits[4] * 10 + digits[5]
    total = sum(weight * digit for weight, digit in zip((1, 3, 7, 9, 1, 3, 7, 9, 1, 3), digits, strict=False))
    return 1 <= month % 20 <= 12 and 1 <= day <= 31 and (10 - total % 10) % 10 == digits[10]


def _is_bsn(text: str) -> bool:
    digits = _digits(text.zfill(9))
    return (sum((9 - at) * digit for at, digit in enumerate(digits[:8])) - digits[8]) % 11 == 0 and any(
        digits
    )


def _is_cpf(text: str) -> bool:
    digits = _digits(text)
    if len(set(digits)) == 1:
        return False
    return all(
        sum((end + 1 - at) * digit for at, digit in enumerate(digits[:end])) * 10 % 11 % 10 == digits[end]
        for end in (9, 10)
    )


def _is_nhs(text: str) -> bool:
    digits = _digits(text)
    left = 11 - sum((10 - at) * digit for at, digit in enumerate(digits[:9])) % 11
    return (0 if left == 11 else left) == digits[9]


def _is_public_ip(text: str) -> bool:
    """An address of a private network or of documentation says nothing about a person."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False
