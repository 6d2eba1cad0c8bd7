"""Which letters of other scripts look like Latin ones: an own small table, for matching only.

Compatibility forms (fullwidth, mathematical, circled) are not here: NFKC has folded them before. What is here looks
the same in common fonts, and is used to write Latin words that no Latin pattern finds.
"""

from __future__ import annotations

_LOOKS_LIKE = {
    # Cyrillic, Greek, Armenian and Latin letters outside of the alphabet, by what they look like.
    "a": "аαɑɐᴀΑАа",
    "b": "вьЬВΒβʙɓƄ",
    "c": "сСϲϹᴄⅽ",
    "d": "ԁɗᴅđԀժ",
    "e": "еЕΕεєҽəɛᴇ",
    "f": "ƒꜰғϝք",
    "g": "ɡɢԍց",
    "h": "һНнΗηħɦʜհҺ",
    "i": "іІїЇιΙɩɪıɨӏӀ",
    "j": "јЈϳʝᴊյ",
    "k": "кКκΚƙᴋқ",
    "l": "ɭłʟլℓ",
    "m": "мМΜɱᴍ",
    "n": "ΝɴոռпП",
    "o": "оОοΟσօɵᴏøӨө",
    "p": "рРρΡƥᴘ",
    "q": "ԛԚꞯգ",
    "r": "гɾʀʁɽ",
    "s": "ѕЅꜱʂՏ",
    "t": "тТτΤʈŧᴛƭ",
    "u": "υսʉᴜцμ",
    "v": "νѵʋᴠѴ",
    "w": "ωԝԜшᴡⱳա",
    "x": "хХχΧҳ×",
    "y": "уУγΥүұʏҮ",
    "z": "ΖζᴢƶȤ",
}

FOLD: dict[int, str] = {
    ord(letter): latin for latin, letters in _LOOKS_LIKE.items() for letter in letters
} | {
    # White letters in black circles and squares, and the letters that flags are made of: NFKC leaves them alone.
    first + offset: chr(ord("a") + offset)
    for first in (0x1F150, 0x1F170, 0x1F1E6)
    for offset in range(26)
}
"""For `str.translate`."""

LEET = str.maketrans("0134578@$€£!|+(", "oieastbaselii" + "tc")
"""Digits and signs that stand for letters inside of words."""
