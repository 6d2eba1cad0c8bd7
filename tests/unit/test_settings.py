"""Settings come from four sources, hold to their bounds, and nothing unknown is ignored."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from nightproof.base.errors import SettingError
from nightproof.settings.load import KNOBS, load
from nightproof.settings.settings import ServerSettings, Settings, is_loopback, refuse_open_binding


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "nightproof.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def test_without_any_source_the_defaults_hold():
    settings = load(None, {}, {})

    assert settings == Settings()
    assert (settings.server.host, settings.server.port, settings.state) == (
        "127.0.0.1",
        8000,
        Path(".nightproof"),
    )


def test_flags_win_over_environment_over_file():
    write("port = 1001\n[limits]\nquota_per_s = 1\nquota_burst = 21\nqueue_bytes = 70000\n")
    environ = {"NIGHTPROOF_PORT": "1002", "NIGHTPROOF_LIMITS_QUOTA_PER_S": "2.5"}

    settings = load(None, environ, {"port": 1003, "host": None})

    assert settings.server.port == 1003
    assert settings.limits.quota_per_s == 2.5
    assert settings.limits.quota_burst == 21
    assert settings.limits.queue_bytes == 70_000


def test_a_file_can_be_named_and_must_then_exist():
    named = write("[server]\nport = 9\n", "other.toml")

    assert load(named, {}, {}).server.port == 9
    with pytest.raises(SettingError, match=r"absent\.toml cannot be read"):
        load(Path("absent.toml"), {}, {})


def test_the_knobs_of_the_server_need_no_section():
    write('host = "::1"\nstate = "/var/lib/np"\n')

    settings = load(None, {"NIGHTPROOF_SERVER_PORT": "7", "NIGHTPROOF_LOG_LEVEL": "debug"}, {})

    assert (settings.server.host, settings.server.port, settings.server.log_level) == ("::1", 7, "debug")
    assert settings.state == Path("/var/lib/np")


@pytest.mark.parametrize("name", ["limits_quota_per_s", "limits.quota_per_s", "limits-quota-per-s"])
def test_flags_are_named_in_any_of_the_usual_ways(name: str):
    assert load(None, {}, {name: 5}).limits.quota_per_s == 5.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", ["setting prot is unknown", "Did you mean port"]),
        ("[limits]\nqota_per_s = 1", ["limits.qota_per_s is unknown", "limits.quota_per_s"]),
        ("[limts]\nquota_per_s = 1", ["section [limts] is unknown", "limits"]),
        ("[server]\nport = 70000", ["server.port is 70000", "0 to 65_535"]),
        ('[server]\nport = "80"', ["server.port is '80'", "a whole number"]),
        ("[server]\nport = true", ["server.port is True"]),
        ("[server]\nport = 80.5", ["server.port is 80.5"]),
        ("[receiving]\nbody_s = nan", ["receiving.body_s is nan"]),
        ("[server]\ninsecure = 1", ["server.insecure is 1", "true | false"]),
        ('log_format = "xml"', ["server.log_format is 'xml'", "auto | json | text"]),
        ("port = 1\n[server]\nport = 2", ["server.port is set twice"]),
        ("port = = 1", ["is not TOML"]),
    ],
)
def test_a_wrong_file_is_refused_with_what_to_do(text: str, words: list[str]):
    write(text)

    with pytest.raises(SettingError) as caught:
        load(None, {}, {})

    assert "nightproof.toml" in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("NIGHTPROOF_PROT", "1", ["NIGHTPROOF_PROT is unknown", "NIGHTPROOF_PORT"]),
        ("NIGHTPROOF_PORT", "eighty", ["server.port is 'eighty'", "a whole number: 0 to 65_535"]),
        ("NIGHTPROOF_INSECURE", "maybe", ["server.insecure is 'maybe'"]),
        ("NIGHTPROOF_LIMITS_WAIT_SHARE", "1.5", ["limits.wait_share is 1.5", "0.01 to 1"]),
        ("NIGHTPROOF_ZZZ", "1", ["docs/settings.md"]),
    ],
)
def test_a_wrong_variable_is_refused_with_what_to_do(variable: str, text: str, words: list[str]):
    with pytest.raises(SettingError) as caught:
        load(None, {variable: text}, {})

    assert variable in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_flag_out_of_bounds_names_the_flag():
    with pytest.raises(SettingError, match=r"Flag --limits-quota-burst: limits\.quota_burst is 0"):
        load(None, {}, {"limits_quota_burst": 0})


@pytest.mark.parametrize("text", ["true", "1", "Yes", "on"])
def test_switches_are_read_as_people_write_them(text: str):
    assert load(None, {"NIGHTPROOF_INSECURE": text}, {}).server.insecure is True


def test_variables_of_others_and_empty_ones_are_left_alone():
    environ = {
        "NIGHTPROOF_PORT": "tcp://10.0.0.7:8000",
        "NIGHTPROOF_SERVICE_HOST": "10.0.0.7",
        "NIGHTPROOF_SERVICE_PORT": "8000",
        "NIGHTPROOF_SERVICE_PORT_HTTP": "8000",
        "NIGHTPROOF_PORT_8000_TCP": "tcp://10.0.0.7:8000",
        "NIGHTPROOF_PORT_8000_TCP_ADDR": "10.0.0.7",
        "NIGHTPROOF_KEY": "npk_live_x",
        "NIGHTPROOF_HOST": "",
        "PATH": "/bin",
    }

    assert load(None, environ, {}) == Settings()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"tls_cert": "c.pem"}, "tls_key is missing"),
        ({"tls_key": "k.pem"}, "tls_cert is missing"),
        ({"tls_client_ca": "ca.pem"}, "without TLS"),
        ({"receiving_header_bytes": 50_000}, "above headers_bytes"),
        ({"workers_backoff_first_s": 60}, "above backoff_most_s"),
    ],
)
def test_knobs_that_contradict_each_other_are_refused(flags: dict[str, object], words: str):
    with pytest.raises(SettingError, match=words):
        load(None, {}, flags)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_tls(host: str):
    refuse_open_binding(ServerSettings(host=host))

    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org", ""])
def test_beyond_loopback_needs_tls_or_the_word_insecure(host: str):
    with pytest.raises(SettingError, match="reachable from other machines"):
        refuse_open_binding(ServerSettings(host=host))

    refuse_open_binding(ServerSettings(host=host, insecure=True))
    refuse_open_binding(ServerSettings(host=host, tls_cert=Path("c"), tls_key=Path("k")))


def test_settings_cannot_be_changed_once_read():
    settings = load(None, {}, {})

    with pytest.raises(FrozenInstanceError):
        settings.server.port = 1  # type: ignore[misc]


def test_every_knob_has_its_own_variable_and_a_default_inside_its_bounds():
    assert len({one.variable for one in KNOBS}) == len(KNOBS)
    for one in KNOBS:
        assert one.meaning
        if one.default is not None:
            assert one.check(one.default, source="default") == one.default
