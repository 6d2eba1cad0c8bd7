"""Personal data and secrets: what is found, what is left alone, and what redaction leaves."""

from __future__ import annotations

import pytest

from nightproof.checks.text import personal, secrets
from nightproof.checks.text.named import Spot, redacted


def kinds(text: str) -> list[str]:
    return [spot.name for spot in personal.built_in().find(text)]


def secret_kinds(text: str) -> list[str]:
    return [spot.name for spot in secrets.built_in().find(text)]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to anna.meier+x@mail.example.org, please", "email"),
        ("call +49 170 1234567 today", "phone"),
        ("call 0049 (0)30 901820", "phone"),
        ("my number is (212) 555-0187", "phone"),
        ("IBAN DE89 3704 0044 0532 0130 00", "iban"),
        ("GB82WEST12345698765432 is mine", "iban"),
        ("card 4111 1111 1111 1111 exp 12/27", "card"),
        ("amex 378282246310005", "card"),
        ("ssn 536-90-4399", "us_ssn"),
        ("Steuer-ID 86 095 742 719", "de_tax_id"),
        ("DNI 12345678Z", "es_dni"),
        ("NIE X1234567L", "es_dni"),
        ("codice RSSMRA85T10A562S", "it_fiscal_code"),
        ("NIR 2 55 08 14 168 025 38", "fr_nir"),
        ("PESEL 44051401359", "pl_pesel"),
        ("BSN: 111222333", "nl_bsn"),
        ("CPF 529.982.247-25", "br_cpf"),
        ("NHS number: 943 476 5919", "uk_nhs"),
        ("from 8.8.8.8 at noon", "ip"),
        ("from 2001:4860:4860::8888 at noon", "ip"),
    ],
)
def test_personal_data_is_found_by_form_and_checksum(text, kind):
    """One example of each kind."""
    assert kinds(text) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "version 1.2.3.4.5 of build 20240501123456",
        "order 4111 1111 1111 1112 was shipped",
        "IBAN DE89 3704 0044 0532 0130 01",
        "DNI 12345678A",
        "the range 10.0.0.1 to 192.168.1.1 is private",
        "ssn 000-12-3456 and 666-12-3456",
        "in 2023 we sold 44051401358 pieces",
        "call me at 5 pm, table 12, 3-4 persons",
        "isbn 978-3-16-148410-0",
        "@mention and user@localhost",
        "12:30:45 and 00:11:22",
        "2024-05-01T10:00:00+00:00",
    ],
)
def test_numbers_that_only_look_like_it_are_left_alone(text):
    """A checksum that fails, a private address, a date: nothing personal."""
    assert kinds(text) == []


KEY = "aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA2cD4fG6hJ8k"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("AKIAQ3EGRIXNVD5TZP2M", "aws_access_key"),
        (f"aws_secret_access_key = {KEY}", "aws_secret_key"),
        (f"AccountKey={KEY}{KEY}==;", "azure_key"),
        ("AIza" + KEY[:35], "gcp_api_key"),
        ("ghp_" + KEY[:36], "github_token"),
        ("glpat-" + KEY[:20], "gitlab_token"),
        ("xox" + "b-123456789012-abcdefABCDEF", "slack_token"),
        ("https://hooks.slack.com/services/T000/B000/XXXXXXXXXXXX", "slack_webhook"),
        ("sk_" + "live_" + KEY[:24], "stripe_key"),
        ("sk-proj-" + KEY, "openai_key"),
        ("sk-ant-api03-" + KEY, "anthropic_key"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N", "jwt"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nabcd==\n-----END RSA PRIVATE KEY-----", "private_key"),
        ("-----BEGIN PRIVATE KEY-----\\nMIIEpAIBAAKCAQEA\\n-----END PRIVATE KEY-----", "private_key"),
        ("postgres://app:Tr0ub4dor@db.internal/x", "url_password"),
        ("api_key: '9f8a7d6c5b4e3f2a1b0c'", "assigned_secret"),
        ("PASSWORD=kX9vQ2mZ7pL4wR8t", "assigned_secret"),
    ],
)  # fmt: skip
def test_secrets_are_found_by_the_forms_of_their_makers(text, kind):
    """One example of each kind."""
    assert kind in secret_kinds(f"here: {text} end")


@pytest.mark.parametrize(
    "text",
    [
        "password = changeme_please_now",
        "token: your_token_goes_here_1",
        "the key is under the doormat in front of the house",
        "sk-learn is a library, sk-learn-extra-package-for-everyone too",
        "postgres://user:${PASSWORD}@host/db",
        "commit 9f8a7d6c5b4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "secret = aaaaaaaaaaaaaaaa1111111111111",
    ],
)
def test_placeholders_words_and_hashes_are_no_secrets(text):
    """Disorder alone is none, and a name alone is none."""
    assert secret_kinds(text) == []


def test_redaction_keeps_all_else():
    """Letters of more than one octet before it do not shift the place."""
    text = "Grüße 日本語 an anna@mail.example.org – und tschüß"

    assert redacted(text, personal.built_in().find(text)) == "Grüße 日本語 an [email] – und tschüß"


def test_of_two_that_overlap_the_first_is_kept():
    """A key inside of an assignment is taken out once."""
    text = "token = ghp_" + KEY[:36]
    spots = secrets.built_in().find(text)

    assert len(spots) == 1
    assert KEY[:36] not in redacted(text, spots)


def test_a_private_key_takes_no_prose_with_it():
    """Only lines of the key are part of it."""
    text = "-----BEGIN PRIVATE KEY-----\nMIIEpAIBAAKC\n-----END PRIVATE KEY-----\nPlease keep this."

    assert redacted(text, secrets.built_in().find(text)) == "[private_key]\nPlease keep this."


@pytest.mark.parametrize(
    "pattern", [*personal.patterns(), *secrets.patterns()], ids=lambda pattern: pattern.name
)
def test_every_pattern_says_how_long_it_can_be(pattern):
    """A stream holds as much back."""
    assert 0 < pattern.longest_chars <= 10_000


def test_spots_are_places_in_characters():
    """What was found can be cut out."""
    text = "é 8.8.8.8"

    assert personal.built_in().find(text) == [Spot("ip", 2, 9)]
    assert text[2:9] == "8.8.8.8"
