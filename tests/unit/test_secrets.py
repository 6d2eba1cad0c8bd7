"""Keys of upstreams: found by reference, read again when they change, and shown nowhere."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from nightproof.base.errors import DeclarationError
from nightproof.storage.secrets import Secret
from tests.serving import wait_until

KEY = "sk-live-VERY-SECRET"


def test_a_key_is_found_in_the_environment_or_in_a_file_and_never_shown(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    file.chmod(0o600)
    secrets = [Secret("env:SOME_KEY", {"SOME_KEY": KEY}), Secret(f"file:{file}")]

    assert [secret.value() for secret in secrets] == [KEY, KEY]
    assert [secret.warning for secret in secrets] == ["", ""]
    assert KEY not in repr(secrets)
    assert KEY not in str([secret.reference for secret in secrets])
    with pytest.raises(TypeError):
        vars(secrets[0])


@pytest.mark.parametrize("content", ["", " \n", "two\nlines", "a\x00b", "schlüssel", "a\r\nx-evil: 1"])
def test_what_is_no_key_is_refused_by_its_reference_alone(tmp_path: Path, content: str):
    file = tmp_path / "key"
    file.write_text(content)

    with pytest.raises(DeclarationError) as refused:
        Secret(f"file:{file}")

    assert f"file:{file}" in str(refused.value)
    assert "evil" not in str(refused.value)


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("env:NOT_SET", "The secret env:NOT_SET is not set in the environment."),
        ("file:/nowhere/key", "The secret file:/nowhere/key cannot be read: No such file or directory."),
        (KEY, "An upstream's secret is no reference."),
        ("env:", "An upstream's secret is no reference."),
        ("vault:x", "An upstream's secret is no reference."),
    ],
)
def test_a_missing_secret_names_the_reference_and_a_key_in_its_place_is_not_repeated(
    reference: str, told: str
):
    with pytest.raises(DeclarationError) as refused:
        Secret(reference, {})

    assert refused.value.text == told
    assert KEY not in str(refused.value)


def test_a_file_that_everybody_may_read_is_used_and_warned_of(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(0o644)
    secret = Secret(f"file:{file}")

    assert secret.value() == KEY
    assert secret.warning == f"The secret file:{file} may be read by everybody (mode 0644)."


def test_a_rotated_key_is_used_without_a_restart_and_a_spoiled_one_is_not(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("old-key")
    file.chmod(0o600)
    secret = Secret(f"file:{file}")
    fresh = tmp_path / "fresh"
    fresh.write_text("new-key")
    fresh.chmod(0o600)

    os.replace(fresh, file)
    wait_until(lambda: secret.value() == "new-key", within_s=10)
    file.unlink()
    wait_until(lambda: bool(secret.warning) or secret.value() != "new-key", within_s=10)

    assert secret.value() == "new-key"
    assert secret.warning.endswith("The key as it was before is used.")


def test_a_secret_does_not_cross_processes():
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(Secret("env:SOME_KEY", {"SOME_KEY": KEY}), protocol=1)
