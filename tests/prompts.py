"""Prompts as a help desk gets them, made up by rules: in English, and in four other languages."""

from __future__ import annotations

import random

_THINGS = (
    "order", "invoice", "parcel", "password", "subscription", "delivery date", "billing address", "refund",
    "account", "warranty", "coupon", "phone number", "e-mail address", "return label", "printer", "router",
)  # fmt: skip
_ENGLISH = (
    "How can I change the {a} of my {b}?",
    "My {a} did not arrive and the {b} is wrong. What should I do now?",
    "Please cancel the {a} and send me the {b} again.",
    "I was charged {n} EUR twice for the {a}, can you look at order {n}?",
    "Where do I find the {a}? I have looked everywhere in my {b}.",
    "The {a} that I ordered on the {d} of May is not what was shown. I would like a {b}.",
    "Is it possible to have the {a} without the {b}, and what does it cost?",
    "hello, {a} does not work since yesterday :( it says error {n}",
    "Thanks! One more question about the {a}: does it come with a {b} or do I have to ask for one?",
    "Write a short and friendly letter to the shop about my {a}, and mention the {b} and the number {n}.",
)
_OTHERS = {
    "german": (
        "Wie kann ich die Adresse für meine Bestellung {n} ändern, und wann ist sie bei mir?",
        "Das Paket ist nicht angekommen und die Rechnung ist falsch. Was soll ich jetzt tun?",
        "Bitte schicken Sie mir die Rechnung {n} noch einmal, ich kann sie im Konto nicht finden.",
    ),
    "french": (
        "Comment puis-je changer l'adresse de livraison pour ma commande {n}, s'il vous plaît ?",
        "Le colis n'est pas arrivé et la facture est fausse. Que dois-je faire pour être remboursé ?",
        "Je voudrais annuler mon abonnement, mais je ne trouve pas la page dans le compte.",
    ),
    "spanish": (
        "¿Cómo puedo cambiar la dirección de mi pedido {n}? No la encuentro en la cuenta.",
        "El paquete no ha llegado y la factura de {n} euros no es la que me dijeron por teléfono.",
        "Quiero una devolución para el pedido {n}, por favor, porque no es lo que se ve en la página.",
    ),
    "russian": (
        "Как изменить адрес доставки для заказа {n}? В личном кабинете такой кнопки нет.",
        "Посылка не пришла, а деньги списали два раза. Что мне теперь делать?",
        "Пожалуйста, отмените подписку и верните деньги на карту, номер заказа {n}.",
    ),
}


def english(count: int, *, seed: int) -> list[str]:
    """Return so many prompts in English."""
    chance = random.Random(seed)
    return [_filled(chance.choice(_ENGLISH), chance) for _ in range(count)]


def mixed(count: int, share: float, *, seed: int) -> list[str]:
    """Return so many prompts, this share of them in other languages, in any order."""
    chance = random.Random(seed)
    others = [text for texts in _OTHERS.values() for text in texts]
    return [
        _filled(chance.choice(others if chance.random() < share else _ENGLISH), chance) for _ in range(count)
    ]


def _filled(text: str, chance: random.Random) -> str:
    a, b = chance.sample(_THINGS, 2)
    said = text.format(a=a, b=b, n=chance.randrange(10, 9_999), d=chance.randrange(1, 31))
    return (
        said if chance.random() < 0.8 else f"{said} {chance.choice(('Thanks.', 'It is urgent!', 'Best, A.'))}"
    )
