"""Releases from a folder to the registry, on real files, processes and servers: what is accepted, and what is not."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from nightproof.releases import signing
from nightproof.releases.manifest import Facts, Manifest, read_statement, statement
from nightproof.storage import bundle_archive
from nightproof.storage.bundle_archive import FILES, SIGNED
from nightproof.storage.bundles import fingerprint
from nightproof.storage.registry_store import RegistryStore
from tests.serving import Served, control_socket, make_key, make_live, run_nightproof, serving, wait_until

SERVICE = """
import pathlib
from pydantic import BaseModel, Field
from nightproof import Model, Service

class Asked(BaseModel):
    x: float

class Answer(BaseModel):
    y: float

class Tiny(Model[Asked, Answer]):
    def load(self, artifacts: pathlib.Path) -> None:
        self.factor = float((artifacts / "factor.txt").read_text())

    def predict(self, batch: list[Asked]) -> list[Answer]:
        return [Answer(y=asked.x * self.factor) for asked in batch]

service = Service("tiny", model=Tiny, workers=(1, 1), spares=0)
"""


def write_service(folder: Path, factor: float = 2.0, source: str = SERVICE) -> Path:
    """Write a small service that multiplies."""
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    (folder / "service.py").write_text(textwrap.dedent(source))
    (folder / "artifacts" / "factor.txt").write_text(str(factor))
    (folder / "golden.jsonl").write_text(json.dumps({"input": {"x": 1}, "expect": {"y": factor}}) + "\n")
    return folder


@dataclass
class Key:
    """A key pair in two files."""

    private: Path
    public: Path

    @property
    def id(self) -> str:
        """Its name."""
        return signing.key_id(signing.read_public_key(self.public.read_bytes()))


def new_key(folder: Path, name: str) -> Key:
    """Make a key pair."""
    key = Key(folder / f"{name}.key", folder / f"{name}.pub")
    pem = signing.new_private_key()
    key.private.write_bytes(pem)
    key.public.write_bytes(signing.public_pem(signing.read_private_key(pem).public_key()))
    return key


def release(
    where: Path | Served, what: Path, *more: str, env: dict[str, str] | None = None
) -> dict[str, Any]:
    """Hand in a release and return what is told of it: by the verb, or to a server as the verb does."""
    if isinstance(where, Served):
        return hand_in(where, what, *more)
    state = where
    done = run_nightproof("release", str(what), "--state", str(state), "--json", *more, env=env)
    told = json.loads(done.stdout) if done.stdout.startswith("{") else {"state": "error", "text": done.stderr}
    return {**told, "exit": done.returncode}


def hand_in(served: Served, what: Path, *more: str) -> dict[str, Any]:
    """Send a release over the control socket in parts, and wait for what comes of it."""
    given = dict(zip(more[::2], more[1::2], strict=False))
    content = what.read_bytes() if what.is_file() else b"".join(listed(what))
    asked = {
        "size": len(content),
        "version": given.get("--version", ""),
        "reason": given.get("--reason", ""),
        "allow_breaking": "--allow-breaking" in more,
    }
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(control_socket(served.state))),
        base_url="http://nightproof",
        timeout=30,
    ) as client:
        path = f"/admin/releases/{client.post('/admin/releases', json=asked).json()['id']}"
        for at in range(0, len(content), 100_000):
            part = client.post(f"{path}/part/{at}", content=content[at : at + 100_000])
            assert part.status_code == 200, part.text
        assert client.post(f"{path}/finish").status_code == 200
        wait_until(lambda: client.get(path).json()["state"] != "judging", within_s=60)
        told: dict[str, Any] = client.get(path).json()
    return {**told, "exit": int(told["state"] != "accepted")}


def listed(folder: Path) -> Iterator[bytes]:
    """Pack a folder that is not signed, as the verb sends it to its own server."""
    found = fingerprint(folder, folder / "none" / "bundles")
    listing = msgspec.json.encode({name: (found.sums[name], found.sizes[name]) for name in found.sums})
    return bundle_archive.pack(bundle_archive.LISTED, listing, folder, found.sizes)


def pack(folder: Path, key: Key, target: Path, version: str = "1.0") -> Path:
    """Make a signed release in a file."""
    done = run_nightproof(
        "release", str(folder), "--version", version, "--key", str(key.private), "-o", str(target)
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return target


def members_of(archive: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Read an archive with the standard library: it is a tar like any other."""
    with tarfile.open(archive) as tar:
        found = []
        for member in tar.getmembers():
            file = tar.extractfile(member)
            found.append((member, file.read() if file else b""))
        return found


def rewritten(
    archive: Path, target: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], Any]
) -> Path:
    """Write an archive again with other members."""
    members = members_of(archive)
    change(members)
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return target


def signed_again(archive: Path, target: Path, key: Key, **other: Any) -> Path:
    """Sign other facts about the same files."""

    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        payload, _ = signing.unverified_payload(members[0][1])
        told = read_statement(payload)
        facts = msgspec.structs.replace(told.facts, **other)
        private = signing.read_private_key(key.private.read_bytes())
        members[0] = (members[0][0], signing.sign(statement(Manifest(facts, told.sums)), private))

    return rewritten(archive, target, change)


def facts_of(state: Path, version: str, service: str = "tiny") -> Facts:
    """Read what was signed of a registered release."""
    content = (state / "releases" / service / f"{version}.sigstore.json").read_bytes()
    return read_statement(signing.unverified_payload(content)[0]).facts


def registered(state: Path, service: str = "tiny") -> dict[str, str]:
    """Return the registered releases with their digests."""
    with closing(RegistryStore(state / "registry.db")) as registry:
        return {one.label: one.digest for one in registry.releases(service)}


def leftovers(state: Path) -> list[str]:
    """Return what lies in the state folder of releases that are not registered."""
    known = set(registered(state).values())
    labels = set(registered(state))
    bundles = [one.name for one in (state / "bundles").iterdir() if one.name not in known]
    signed = [
        one.name
        for one in (state / "releases").glob("tiny/*")
        if one.name.split(".sigstore")[0] not in labels
    ]
    return bundles + signed


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Key]:
    """Make a key that is trusted, and one that is not."""
    folder = tmp_path_factory.mktemp("keys")
    return {name: new_key(folder, name) for name in ("alice", "mallory")}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, Key]) -> Iterator[Served]:
    """Serve a first release, and trust one key; each test leaves it as it is."""
    folder = tmp_path_factory.mktemp("tiny")
    with serving(write_service(folder / "tiny"), folder / "state", "--set", "drain_wait_s=0") as served:
        done = run_nightproof("trust", "add", str(keys["alice"].public), "--state", str(served.state))
        assert done.returncode == 0, done.stderr
        yield served


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, Key]) -> Path:
    """Make a release in a file, signed by the trusted key."""
    folder = tmp_path_factory.mktemp("good")
    return pack(write_service(folder / "tiny", factor=3.0), keys["alice"], folder / "good.npb", "good")


def assert_refused(told: dict[str, Any], failure: str, *words: str) -> None:
    """Hold a refusal to its name, its words, and a hint of what to do."""
    assert (told["exit"], told["state"], told.get("failure")) == (1, "refused", failure), told
    assert told["hint"]
    for word in words:
        assert word in told["text"], told["text"]


def assert_nothing_came_of_it(served: Served, before: dict[str, str]) -> None:
    """What was refused left nothing, and the live release answers."""
    assert registered(served.state) == before
    assert leftovers(served.state) == []
    assert served.predict({"x": 2}).json()["output"] == {"y": 4.0}


# -- made, handed in, accepted --------------------------------------------------------------------------


def test_a_folder_is_released_with_everything_that_belongs_to_it_under_its_signature(
    tmp_path: Path, state: Path
):
    folder = write_service(tmp_path / "tiny")
    (folder / ".nightproofignore").write_text("notes.txt\n")
    (folder / "notes.txt").write_text("not for the release")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"x")

    told = release(state, folder, "--version", "1.0", "--reason", "the first")

    facts = facts_of(state, "1.0")
    assert (told["exit"], told["state"]) == (0, "accepted")
    assert set(facts.sizes) == {"service.py", "golden.jsonl", "artifacts/factor.txt"}
    assert (facts.service, facts.version, facts.reason, facts.golden_cases) == ("tiny", "1.0", "the first", 1)
    assert facts.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts.versions.keys() == {"python", "pydantic"}, "the frameworks that it uses, and no others"
    assert facts.input_schema["properties"]["x"]["type"] == "number"
    assert registered(state) == {"1.0": facts.bundle}
    assert leftovers(state) == []


def test_a_running_server_takes_a_folder_and_goes_on_serving_what_is_live(served: Served, tmp_path: Path):
    folder = write_service(tmp_path / "tiny", factor=5.0)

    first = release(served.state, folder, "--version", "five", "--reason", "more")
    again = release(served, folder, "--version", "five")

    assert (first["state"], first["released"]["was_there"]) == ("accepted", False)
    assert (again["state"], again["released"]["was_there"]) == ("accepted", True)
    assert served.predict({"x": 2}).json()["output"] == {"y": 4.0}
    assert leftovers(served.state) == []


def test_a_release_made_elsewhere_is_verified_there_and_taken_here(
    served: Served, good: Path, keys: dict[str, Key]
):
    verified = run_nightproof("releases", "verify", str(good), "--key", str(keys["alice"].public))
    other = run_nightproof("releases", "verify", str(good), "--key", str(keys["mallory"].public))

    told = release(served, good, "--reason", "from elsewhere")

    assert (verified.returncode, verified.stdout.split()[0]) == (0, "holds"), verified.stderr
    assert (other.returncode, "not trusted" in other.stderr) == (1, True)
    assert told["state"] == "accepted"
    assert told["released"]["signed_by"] == keys["alice"].id
    assert facts_of(served.state, "good").version == "good"


def test_over_http_a_key_of_a_role_hands_in_what_is_signed_and_only_that(
    served: Served, good: Path, tmp_path: Path
):
    operate = {
        "NIGHTPROOF_KEY": make_key(served.state, "operate"),
        "NIGHTPROOF_STATE": str(tmp_path / "none"),
    }
    predict = {**operate, "NIGHTPROOF_KEY": served.key}
    folder = write_service(tmp_path / "tiny", factor=7.0)

    by_operator = run_nightproof("release", str(good), "--url", served.base_url, "--json", env=operate)
    by_caller = run_nightproof("release", str(good), "--url", served.base_url, env=predict)
    unsigned = run_nightproof("release", str(folder), "--url", served.base_url, env=operate)

    assert (by_operator.returncode, json.loads(by_operator.stdout)["state"]) == (0, "accepted")
    assert (by_caller.returncode, "forbidden" in by_caller.stderr) == (1, True)
    assert (unsigned.returncode, "must be signed here" in unsigned.stderr) == (1, True)


def test_each_act_is_in_the_audit_log_with_who_and_why(tmp_path: Path, state: Path, keys: dict[str, Key]):
    folder = write_service(tmp_path / "tiny")
    release(state, folder, "--version", "1.0", "--reason", "the first")
    release(state, pack(folder, keys["mallory"], tmp_path / "m.npb", "2.0"), "--reason", "a stranger's")
    run_nightproof(
        "trust", "add", str(keys["mallory"].public), "--state", str(state), "--reason", "known now"
    )

    done = run_nightproof("audit", "search", "--kind", "operator", "--state", str(state), "--json")
    found = json.loads(done.stdout)
    ids = [one["id"] for one in (found["records"] if isinstance(found, dict) else found)]
    acts = {}
    for entry_id in ids:
        (shown,) = json.loads(
            run_nightproof("audit", "show", entry_id, "--state", str(state), "--json").stdout
        )
        acts[shown["facts"]["act"]] = shown["facts"]
    assert set(acts) == {"release.register", "release.refuse", "trust.add"}
    assert (acts["release.register"]["reason"], acts["release.register"]["release"]) == ("the first", "1.0")
    assert (acts["release.refuse"]["failure"], acts["release.refuse"]["reason"]) == (
        "release_unsigned",
        "a stranger's",
    )
    assert (acts["trust.add"]["target"], acts["trust.add"]["reason"]) == (keys["mallory"].id, "known now")


# -- refused ------------------------------------------------------------------------------------------------


def _flip(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    place = next(n for n, (member, _) in enumerate(members) if member.name == "files/service.py")
    member, content = members[place]
    members[place] = (member, content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])


def _add(name: str, **kind: Any) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        extra = tarfile.TarInfo(name)
        for attribute, value in kind.items():
            setattr(extra, attribute, value)
        members.append((extra, b"" if kind else b"x"))

    return change


def _instead(name: str, **kind: Any) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    """Put something else in a file's place."""

    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        place = next(n for n, (member, _) in enumerate(members) if member.name == "files/service.py")
        other = tarfile.TarInfo(name)
        for attribute, value in kind.items():
            setattr(other, attribute, value)
        members[place] = (other, b"" if kind else members[place][1])

    return change


TAMPERED: dict[str, tuple[Callable[[list[tuple[tarfile.TarInfo, bytes]]], Any], str]] = {
    "a flipped byte": (_flip, "its digest differs"),
    "a missing file": (lambda members: members.pop(), "is missing|ends before"),
    "a missing file in the middle": (lambda members: members.pop(2), "is missing"),
    "an extra file": (_add("files/extra.py"), "does not list"),
    "a file twice": (lambda members: members.append(members[-1]), "does not list"),
    "a longer file": (lambda members: members.append((members.pop()[0], b"x" * 9_999)), "bytes; its manifest says"),
    "zip slip": (_instead("files/../../escaped.py"), "does not list"),
    "a full path": (_instead("/tmp/nightproof-escaped.py"), "does not list"),
    "a symbolic link": (_instead("files/service.py", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "no plain file"),
    "a hard link": (_instead("files/service.py", type=tarfile.LNKTYPE, linkname="/etc/passwd"), "no plain file"),
    "a device": (_instead("files/service.py", type=tarfile.CHRTYPE), "no plain file"),
    "a pipe": (_instead("files/service.py", type=tarfile.FIFOTYPE), "no plain file"),
    "no manifest in front": (lambda members: members.pop(0), "begins with"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_an_archive_that_was_tampered_with_is_refused_whole(
    served: Served, good: Path, tmp_path: Path, case: str
):
    before = registered(served.state)
    change, words = TAMPERED[case]

    told = release(served, rewritten(good, tmp_path / "bad.npb", change))

    assert_refused(told, "release_damaged")
    assert any(word in told["text"] for word in words.split("|")), told["text"]
    assert not Path("/tmp/nightproof-escaped.py").exists()
    assert not list(served.state.parent.rglob("escaped.py"))
    assert_nothing_came_of_it(served, before)


def test_half_an_archive_and_what_is_none_are_refused(served: Served, good: Path, tmp_path: Path):
    before = registered(served.state)
    half, none = tmp_path / "half.npb", tmp_path / "none.npb"
    half.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    none.write_bytes(os.urandom(5_000))

    for archive in (half, none):
        assert_refused(release(served, archive), "release_damaged")
    assert_nothing_came_of_it(served, before)


def test_what_arrives_is_bounded_and_taken_in_order(served: Served, good: Path):
    content = good.read_bytes()
    tell = served.operate

    too_large = tell("POST", "/admin/releases", {"size": 2**50})
    begun = tell("POST", "/admin/releases", {"size": len(content)}).json()
    path = f"/admin/releases/{begun['id']}"
    gap = tell("POST", f"{path}/part/10", "x")
    early = tell("POST", f"{path}/finish")
    others = [tell("POST", "/admin/releases", {"size": 10}) for _ in range(4)]
    for one in (begun, *(other.json() for other in others[:3])):
        tell("POST", f"/admin/releases/{one['id']}/abandon")
    unknown = tell("GET", path)

    assert (too_large.status_code, too_large.json()["failure"]) == (413, "oversized_request")
    assert (gap.status_code, "comes next" in gap.json()["detail"]) == (422, True)
    assert (early.status_code, "have come" in early.json()["detail"]) == (422, True)
    assert [one.status_code for one in others] == [200, 200, 200, 503]
    assert unknown.status_code == 404


def test_a_stranger_s_signature_is_refused_and_nothing_of_it_is_unpacked(
    served: Served, tmp_path: Path, keys: dict[str, Key]
):
    before = registered(served.state)
    archive = pack(write_service(tmp_path / "tiny", 9.0), keys["mallory"], tmp_path / "m.npb", "mallory")

    told = release(served, archive)

    assert_refused(told, "release_unsigned", keys["mallory"].id[:16], "not trusted")
    assert_nothing_came_of_it(served, before)


def test_a_key_that_is_trusted_for_one_service_signs_no_other(
    tmp_path: Path, state: Path, keys: dict[str, Key]
):
    archive = pack(write_service(tmp_path / "tiny"), keys["alice"], tmp_path / "a.npb")
    trust = ("trust", "add", str(keys["alice"].public), "--state", str(state))
    assert run_nightproof(*trust, "--service", "another").returncode == 0
    narrowed = release(state, archive)
    assert run_nightproof(*trust, "--service", "tiny").returncode == 0

    assert_refused(narrowed, "release_unsigned")
    assert release(state, archive)["state"] == "accepted"


class Gadget:
    """Leaves a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


UNPICKLING = SERVICE.replace(
    'self.factor = float((artifacts / "factor.txt").read_text())',
    'import pickle; pickle.loads((artifacts / "model.pkl").read_bytes()); self.factor = 2.0',
)


def test_a_pickle_that_runs_code_is_refused_before_it_runs(
    served: Served, tmp_path: Path, keys: dict[str, Key]
):
    before = registered(served.state)
    canary = tmp_path / "ran"
    folder = write_service(tmp_path / "tiny", source=UNPICKLING)
    (folder / "artifacts" / "model.pkl").write_bytes(pickle.dumps(Gadget(canary)))
    archive = pack(folder, keys["mallory"], tmp_path / "m.npb", "evil")
    assert canary.exists(), "it does run where its maker makes it"
    canary.unlink()

    by_a_stranger = release(served, archive)
    never = release(tmp_path / "state", folder, env={"NIGHTPROOF_RELEASES_ALLOW_PICKLE": "never"})

    assert_refused(by_a_stranger, "release_unsigned")
    assert_refused(never, "release_refused", "artifacts/model.pkl", "pickle")
    assert any("posix.system" in one["text"] for one in never["findings"]), (
        "what it imports is told, as evidence"
    )
    assert not canary.exists()
    assert_nothing_came_of_it(served, before)


def test_a_pickle_that_calls_itself_json_is_refused_whoever_signs(served: Served, tmp_path: Path):
    before = registered(served.state)
    canary = tmp_path / "ran"
    folder = write_service(tmp_path / "tiny", source=UNPICKLING.replace("model.pkl", "model.json"))
    (folder / "artifacts" / "model.json").write_bytes(pickle.dumps(Gadget(canary)))

    told = release(served, folder, "--version", "disguised")

    assert_refused(told, "release_refused", "artifacts/model.json", "calls itself JSON")
    assert not canary.exists()
    assert_nothing_came_of_it(served, before)


def test_a_model_that_fails_a_golden_case_is_refused(served: Served, tmp_path: Path):
    before = registered(served.state)
    folder = write_service(tmp_path / "tiny", factor=4.0)
    (folder / "golden.jsonl").write_text('{"input": {"x": 1}, "expect": {"y": 2.0}}\n')

    told = release(served, folder, "--version", "wrong")

    assert_refused(told, "release_refused", "golden.jsonl line 1", "y is 4.0, expected 2.0")
    assert_nothing_came_of_it(served, before)


def test_a_model_that_needs_ten_times_its_memory_is_refused(served: Served, tmp_path: Path):
    before = registered(served.state)
    greedy = SERVICE.replace("self.factor =", "self.hoard = bytearray(10 * 256 * 2**20); self.factor =")
    greedy = greedy.replace("spares=0", "spares=0, memory_mb=256")

    told = release(served, write_service(tmp_path / "tiny", source=greedy), "--version", "greedy")

    assert_refused(told, "release_refused", "memory")
    assert_nothing_came_of_it(served, before)


def test_a_model_that_never_ends_loading_is_refused_within_its_time(served: Served, tmp_path: Path):
    before = registered(served.state)
    slow = SERVICE.replace("self.factor =", "import time; time.sleep(600); self.factor =")
    slow = slow.replace("spares=0", "spares=0, load_timeout_s=1")

    told = release(served, write_service(tmp_path / "tiny", source=slow), "--version", "slow")

    assert_refused(told, "release_refused", "did not end within 1 s")
    assert_nothing_came_of_it(served, before)


def test_types_that_break_callers_are_refused_in_words_unless_that_is_wanted(served: Served, tmp_path: Path):
    before = registered(served.state)
    stricter = write_service(tmp_path / "tiny", source=SERVICE.replace("x: float", "x: float = Field(le=10)"))
    wider = write_service(
        tmp_path / "wider" / "tiny", source=SERVICE.replace("x: float", "x: float; note: str = ''")
    )

    told = release(served, stricter, "--version", "stricter")
    assert_refused(told, "release_refused", "input /x", "the greatest value was not set and is now 10")
    assert_nothing_came_of_it(served, before)
    wanted = release(served, stricter, "--version", "stricter", "--allow-breaking")
    additive = release(served, wider, "--version", "wider")

    assert wanted["state"] == additive["state"] == "accepted"
    assert [one["text"][:28] for one in additive["released"]["findings"]] == ["is new and may be left out ("]


def test_a_version_names_one_content_for_good(served: Served, tmp_path: Path, keys: dict[str, Key]):
    first = write_service(tmp_path / "tiny", factor=11.0)
    assert release(served, first, "--version", "eleven")["state"] == "accepted"
    before = registered(served.state)
    other = write_service(tmp_path / "other" / "tiny", factor=12.0)

    unsigned = release(served, other, "--version", "eleven")
    signed = release(served, pack(other, keys["alice"], tmp_path / "o.npb", "eleven"))
    same_bytes = release(served, first, "--version", "eleven-again")

    assert_refused(unsigned, "release_refused", "eleven with other content")
    assert_refused(signed, "release_refused", "eleven with other content")
    assert same_bytes["state"] == "accepted", "equal bytes under another version are another release"
    assert registered(served.state) == {**before, "eleven-again": before["eleven"]}


def test_a_release_made_with_other_versions_is_refused_before_it_runs(
    served: Served, good: Path, tmp_path: Path, keys: dict[str, Key]
):
    before = registered(served.state)
    python = {"python": "3.99.1"}
    framework = {"python": ".".join(map(str, sys.version_info[:3])), "pydantic": "1.10.0", "xgboost": "9.9"}

    for number, versions in enumerate((python, framework)):
        archive = signed_again(
            good, tmp_path / f"{number}.npb", keys["alice"], versions=versions, version=f"other-{number}"
        )
        told = release(served, archive)
        assert_refused(told, "release_incompatible", "the release was made with")
    assert "pydantic is 2" in told["text"]
    assert "xgboost is not installed here" in told["text"]
    assert_nothing_came_of_it(served, before)


def test_a_manifest_that_lies_about_its_types_or_its_service_is_refused(
    served: Served, good: Path, tmp_path: Path, keys: dict[str, Key]
):
    before = registered(served.state)
    lies = {"types": {"output_schema": {"type": "object"}}, "service": {"service": "another"}}

    for name, other in lies.items():
        archive = signed_again(good, tmp_path / f"{name}.npb", keys["alice"], version=name, **other)
        told = release(served, archive)
        assert (told["state"], told["failure"] in ("release_damaged", "release_refused")) == ("refused", True)
    assert_nothing_came_of_it(served, before)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "out").symlink_to("/etc/passwd"), "leads out of the service's folder"),
        (lambda folder: (folder / "gone").symlink_to("nothing"), "a link to nothing"),
        (lambda folder: (folder / "loop").symlink_to(folder), "leads back"),
        (lambda folder: os.mkfifo(folder / "pipe"), "neither a file nor a folder"),
        (lambda folder: (folder / "a\nb.txt").write_text("x"), "cannot be the name of a file"),
        (lambda folder: (folder / "service.py").unlink(), "no service.py"),
        (lambda folder: (folder / "service.py").write_text("1/0"), "ZeroDivisionError"),
    ],
)
def test_a_folder_that_can_be_no_release_is_refused_with_the_place(
    tmp_path: Path, state: Path, spoil: Callable[[Path], object], words: str
):
    folder = write_service(tmp_path / "tiny")
    spoil(folder)

    done = run_nightproof("release", str(folder), "--state", str(state))

    assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    assert (
        "Traceback" not in done.stderr.replace("Traceback (most recent call last)", "", 0)
        or "ZeroDivision" in words
    )
    assert registered(state) == {}
    assert leftovers(state) == []


# -- loaded again ------------------------------------------------------------------------------------------------


def bundle_file(state: Path, name: str = "artifacts/factor.txt") -> Path:
    """Return a file of the one bundle."""
    (digest,) = set(registered(state).values())
    return state / "bundles" / digest / name


def test_every_worker_reads_every_byte_again_before_it_serves(tmp_path: Path, state: Path):
    with serving(write_service(tmp_path / "tiny"), state, "--set", "drain_wait_s=0") as served:
        file = bundle_file(state)
        file.chmod(0o600)
        file.write_text("2.1")
        (pid,) = served.status()["services"][0]["pids"]
        os.kill(pid, signal.SIGKILL)

        wait_until(lambda: "was changed" in str(served.status()["components"]))
        answer = served.predict({"x": 2})

    assert (answer.status_code, answer.json()["failure"]) == (503, "model_unavailable")
    assert "release_damaged" in served.log.read_text()


def start_fails(folder: Path, state: Path) -> str:
    """Start a server that must not come up; return what it said."""
    done = run_nightproof("serve", str(folder), "--state", str(state), "--port", "0")
    assert done.returncode == 1
    return done.stderr + done.stdout


def test_a_live_release_that_was_changed_is_not_started_on(tmp_path: Path, state: Path):
    folder = write_service(tmp_path / "tiny")
    make_live(folder, state, "1.0")
    file, signed = bundle_file(state), state / "releases" / "tiny" / "1.0.sigstore.json"
    content, statement_as_it_was = file.read_bytes(), signed.read_bytes()
    file.chmod(0o600)

    file.write_text("9.0")
    changed = start_fails(folder, state)
    file.write_bytes(content)
    (file.parent / "extra.py").write_text("")
    extra = start_fails(folder, state)
    (file.parent / "extra.py").unlink()
    file.unlink()
    missing = start_fails(folder, state)
    file.symlink_to(tmp_path / "tiny" / "artifacts" / "factor.txt")
    link = start_fails(folder, state)
    file.unlink()
    file.write_bytes(content)
    signed.write_bytes(statement_as_it_was.replace(b'"sig":"M', b'"sig":"N'))
    forged = start_fails(folder, state)
    signed.unlink()
    unsigned = start_fails(folder, state)
    signed.write_bytes(statement_as_it_was)

    assert all("was changed" in one for one in (changed, extra, missing, link))
    assert "does not hold" in forged
    assert "is missing" in unsigned
    with serving(folder, state, "--set", "drain_wait_s=0") as served:
        assert served.predict({"x": 2}).json()["release"] == "1.0"


def test_a_release_of_a_key_that_is_trusted_no_longer_is_not_loaded(
    tmp_path: Path, state: Path, keys: dict[str, Key]
):
    folder = write_service(tmp_path / "tiny")
    archive = pack(folder, keys["alice"], tmp_path / "a.npb")
    run_nightproof("trust", "add", str(keys["alice"].public), "--state", str(state))
    assert release(state, archive)["state"] == "accepted"
    with closing(RegistryStore(state / "registry.db")) as registry:
        registry.set_live("tiny", "1.0")

    removed = run_nightproof("trust", "remove", keys["alice"].id[:16], "--state", str(state))

    assert "tiny 1.0 will not load again" in removed.stdout
    assert "not trusted here" in start_fails(folder, state)


def test_a_release_names_its_own_interpreter_and_its_workers_start_with_that(tmp_path: Path, state: Path):
    own = tmp_path / "own"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(own)], check=True)
    (site,) = own.glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith(("site-packages", "/src"))]
    (site / "server.pth").write_text("\n".join(here))
    python = own / "bin" / "python"
    folder = write_service(tmp_path / "tiny")

    none = release(state, folder, "--version", "none", "--python", str(tmp_path / "nothing"))
    told = release(state, folder, "--version", "own", "--python", str(python))
    with closing(RegistryStore(state / "registry.db")) as registry:
        registry.set_live("tiny", "own")

    assert_refused(none, "release_incompatible", "cannot be started")
    assert told["state"] == "accepted"
    with serving(folder, state, "--set", "drain_wait_s=0") as served:
        (pid,) = served.status()["services"][0]["pids"]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert served.predict({"x": 2}).json()["release"] == "own"
    assert command[0] == str(python).encode()


def wheel_of(folder: Path, name: str, version: str, source: str) -> tuple[Path, str]:
    """Write a wheel with one module; return it with its hash."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", source)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_release_with_locked_requirements_runs_in_their_environment_and_no_other(
    tmp_path: Path, state: Path
):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    _, digest = wheel_of(wheels, "nightfactor", "1.0", "FACTOR = 2.0")
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    source = SERVICE.replace(
        'float((artifacts / "factor.txt").read_text())', "__import__('nightfactor').FACTOR"
    )
    folder = write_service(tmp_path / "tiny", source=source)
    without = release(state, folder, "--version", "without", env=env)
    (folder / "requirements.lock").write_text(f"nightfactor==1.0 --hash=sha256:{'0' * 64}\n")
    wrong = release(state, folder, "--version", "wrong", env=env)
    (folder / "requirements.lock").write_text(f"nightfactor==1.0 --hash=sha256:{digest}\n")

    told = release(state, folder, "--version", "locked", env=env)
    make_live(folder, state, "locked")

    assert_refused(without, "release_refused", "ModuleNotFoundError")
    assert_refused(wrong, "release_incompatible", "requirements.lock cannot be installed")
    assert told["state"] == "accepted", told
    assert facts_of(state, "locked").requirements
    shutil.rmtree(state / "environments")
    with serving(folder, state, "--set", "drain_wait_s=0", env=env) as served:
        (pid,) = served.status()["services"][0]["pids"]
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert served.predict({"x": 2}).json()["output"] == {"y": 4.0}
    assert command.startswith(f"{state}/environments/".encode())


# -- serve, and a folder that somebody edits ------------------------------------------------------------------


def events(served: Served, name: str) -> list[dict[str, Any]]:
    """Return the server's log lines of one event."""
    lines = served.log.read_text().splitlines()
    return [told for line in lines if line.startswith("{") and (told := json.loads(line))["event"] == name]


def test_the_first_serve_signs_and_registers_and_later_ones_only_report_a_folder_that_differs(
    tmp_path: Path, state: Path
):
    folder = write_service(tmp_path / "tiny")
    with serving(folder, state, "--set", "drain_wait_s=0") as first:
        label = first.predict({"x": 2}).json()["release"]
    write_service(folder, factor=3.0)

    with serving(folder, state, "--set", "drain_wait_s=0") as second:
        answer = second.predict({"x": 2}).json()
        (told,) = events(second, "folder_not_served")
        made = run_nightproof(*told["commands"][0].split()[1:], "--json")

    version = json.loads(made.stdout)["released"]["version"]
    assert label.startswith("dev-")
    assert (answer["release"], answer["output"]) == (label, {"y": 4.0})
    assert told["commands"] == [
        f"nightproof release {folder} --state {state}",
        f"nightproof promote tiny {version} --now --state {state}",
    ]
    with serving(folder, state, "--set", "drain_wait_s=0") as third:
        (told,) = events(third, "folder_not_served")[1:]
        assert told["commands"] == [f"nightproof promote tiny {version} --now --state {state}"]
        assert third.predict({"x": 2}).json()["release"] == label


def test_a_first_release_of_before_signatures_is_signed_at_the_next_start(tmp_path: Path, state: Path):
    folder = write_service(tmp_path / "tiny")
    with serving(folder, state, "--set", "drain_wait_s=0") as first:
        label = first.predict({"x": 2}).json()["release"]
    shutil.rmtree(state / "releases")

    with serving(folder, state, "--set", "drain_wait_s=0") as second:
        again = second.predict({"x": 2}).json()["release"]

    assert again == label
    assert facts_of(state, label).reason == "registered before releases were signed"


@pytest.mark.parametrize("spoil", ["broken", "gone"])
def test_a_folder_that_is_broken_at_a_restart_leaves_the_live_release_serving(
    tmp_path: Path, state: Path, spoil: str
):
    folder = write_service(tmp_path / "tiny")
    with serving(folder, state, "--set", "drain_wait_s=0"):
        pass
    if spoil == "broken":
        (folder / "service.py").write_text("def half(")
    else:
        shutil.rmtree(folder)

    with serving(folder, state, "--set", "drain_wait_s=0") as served:
        answer = served.predict({"x": 2}).json()
        (told,) = events(served, "folder_not_served")

    assert answer["output"] == {"y": 4.0}
    assert "cannot be read" in told["why"]


# -- kill, full disk, store, collection ---------------------------------------------------------------------------


def test_a_kill_at_any_moment_leaves_a_release_accepted_or_not_at_all(tmp_path: Path, state: Path):
    began = time.monotonic()
    assert release(state, write_service(tmp_path / "0" / "tiny", factor=1.0), "--version", "v0")["exit"] == 0
    whole_s = time.monotonic() - began
    for number in range(1, 9):
        folder = write_service(tmp_path / str(number) / "tiny", factor=1.0 + number)
        command = [sys.executable, "-m", "nightproof", "release", str(folder), "--state", str(state)]
        with subprocess.Popen([*command, "--version", f"v{number}"], stdout=subprocess.PIPE) as process:
            try:
                process.wait(whole_s * (0.3 + 0.1 * number))
            except subprocess.TimeoutExpired:
                process.kill()

    after = run_nightproof("releases", "list", "--state", str(state), "--json")

    told = {one["version"]: one for one in json.loads(after.stdout)}
    assert set(told) == set(registered(state))
    assert {one["trouble"] for one in told.values()} == {""}
    assert all(one["files_here"] for one in told.values())
    assert [one for one in leftovers(state) if one.startswith(".")] == []
    assert release(state, tmp_path / "8" / "tiny", "--version", "v8")["exit"] == 0
    assert run_nightproof("audit", "verify", "--state", str(state)).returncode == 0


def test_a_server_that_is_killed_while_it_judges_has_accepted_nothing(tmp_path: Path, state: Path):
    slow = SERVICE.replace("self.factor =", "import time; time.sleep(30); self.factor =")
    folder = write_service(tmp_path / "tiny")
    with serving(folder, state, "--set", "drain_wait_s=0") as served:
        label = served.predict({"x": 2}).json()["release"]
        other = write_service(tmp_path / "slow" / "tiny", source=slow)
        command = [
            sys.executable,
            "-m",
            "nightproof",
            "release",
            str(other),
            "--state",
            str(state),
            "--version",
            "slow",
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as handing_in:
            wait_until(lambda: len(list((state / "bundles").iterdir())) > 1)
            served.stop(signal.SIGKILL)
            assert handing_in.wait(30) == 1

    with serving(folder, state, "--set", "drain_wait_s=0") as served:
        assert served.predict({"x": 2}).json()["release"] == label
        assert set(registered(state)) == {label}
        assert leftovers(state) == [], "they are swept at the start"


FILLED = """
import os, subprocess, sys
state, folder = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", state], check=True)
nightproof = [sys.executable, "-m", "nightproof"]
def run(*words):
    return subprocess.run([*nightproof, *words, "--state", state], capture_output=True, text=True)
small = run("release", folder, "--version", "small")
print(small.returncode, small.stderr)
with open(folder + "/artifacts/big.txt", "w") as big:
    big.write("x" * 20_000_000)
full = run("release", folder, "--version", "big")
print(full.returncode, full.stderr.splitlines()[0])
os.environ["NIGHTPROOF_LEDGER_DISK_LOW_BYTES"] = "64000000"
low = run("release", folder, "--version", "big")
print(low.returncode, low.stderr.splitlines()[0])
there = os.listdir(state + "/bundles")
print(sorted(name[:4] for name in there if name.startswith(".")), len(there))
os.truncate(folder + "/artifacts/big.txt", 1_000)
os.environ["NIGHTPROOF_LEDGER_DISK_LOW_BYTES"] = "0"
again = run("release", folder, "--version", "big")
print(again.returncode, again.stderr, run("audit", "verify").returncode)
"""


def test_a_full_disk_refuses_a_release_and_keeps_what_is_there(tmp_path: Path):
    own_mounts = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--map-root-user")
    if subprocess.run([*own_mounts, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine gives us no mounts of our own")
    folder, state = write_service(tmp_path / "tiny"), tmp_path / "state"
    state.mkdir(mode=0o700)

    done = subprocess.run(
        [*own_mounts, sys.executable, "-c", FILLED, str(state), str(folder)],
        capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "NIGHTPROOF_LEDGER_DISK_LOW_BYTES": "0"},
    )  # fmt: skip

    told = done.stdout.splitlines()
    assert told[0] == "0 ", done.stdout + done.stderr
    assert told[1].startswith("1 error: The release needs") or "No space left" in told[1], done.stdout
    assert told[2].startswith("1 error: The release needs"), done.stdout
    assert told[3] == "[] 1", "nothing of it stayed"
    assert told[4] == "0  0"


def test_files_that_are_gone_come_back_from_the_store_and_are_held_to_what_was_signed(
    tmp_path: Path, state: Path
):
    pytest.importorskip("fsspec")
    store = tmp_path / "store"
    env = {"NIGHTPROOF_RELEASES_STORE": store.as_uri()}
    folder = write_service(tmp_path / "tiny")
    assert release(state, folder, "--version", "1.0", env=env)["state"] == "accepted"
    with closing(RegistryStore(state / "registry.db")) as registry:
        registry.set_live("tiny", "1.0")
    (digest,) = registered(state).values()
    kept = store / f"{digest}.npb"
    as_it_was = kept.read_bytes()

    shutil.rmtree(state / "bundles" / digest)
    without = start_fails(folder, state)
    kept.write_bytes(as_it_was.replace(b"2.0", b"9.0"))
    changed = run_nightproof("serve", str(folder), "--state", str(state), "--port", "0", env=env)
    kept.write_bytes(as_it_was)
    with serving(folder, state, "--set", "drain_wait_s=0", env=env) as served:
        answer = served.predict({"x": 2}).json()

    assert "are not here" in without
    assert (changed.returncode, "not what was signed" in changed.stderr) == (1, True), changed.stderr
    assert (answer["release"], answer["output"]) == ("1.0", {"y": 4.0})
    assert (state / "bundles" / digest).is_dir()


def test_a_store_that_does_not_answer_refuses_the_release(tmp_path: Path, state: Path):
    pytest.importorskip("fsspec")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")

    told = run_nightproof(
        "release", str(write_service(tmp_path / "tiny")), "--state", str(state),
        env={"NIGHTPROOF_RELEASES_STORE": f"{in_the_way.as_uri()}/store"},
    )  # fmt: skip

    assert (told.returncode, "Is the store up" in told.stderr) == (1, True), told.stderr
    assert registered(state) == {}
    assert leftovers(state) == []


def test_old_releases_lose_their_files_and_keep_their_history(tmp_path: Path, state: Path):
    env = {"NIGHTPROOF_RELEASES_KEEP_NEWEST": "1", "NIGHTPROOF_RELEASES_KEEP_DAYS": "0"}
    for number in range(3):
        folder = write_service(tmp_path / str(number) / "tiny", factor=1.0 + number)
        assert release(state, folder, "--version", f"v{number}")["exit"] == 0
    with closing(RegistryStore(state / "registry.db")) as registry:
        registry.set_live("tiny", "v0")

    said = run_nightproof("releases", "gc", "--dry-run", "--state", str(state), "--json", env=env)
    there = set(os.listdir(state / "bundles"))
    removed = run_nightproof("releases", "gc", "--state", str(state), "--json", env=env)
    listed = json.loads(
        run_nightproof("releases", "list", "tiny", "--state", str(state), "--json", env=env).stdout
    )

    assert len(there) == 3
    assert json.loads(said.stdout) == json.loads(removed.stdout)
    assert {name for one in json.loads(removed.stdout) for name in one["releases"]} == {"tiny v1"}
    assert {one["version"]: (one["files_here"], one["trouble"]) for one in listed} == {
        "v0": (True, ""), "v1": (False, ""), "v2": (True, ""),
    }  # fmt: skip
    assert release(state, tmp_path / "1" / "tiny", "--version", "v1")["state"] == "accepted", (
        "they can come back"
    )


def test_the_first_member_of_an_archive_is_what_was_signed_and_tar_opens_it(good: Path):
    names = [member.name for member, _ in members_of(good)]

    assert names == [SIGNED, f"{FILES}artifacts/factor.txt", f"{FILES}golden.jsonl", f"{FILES}service.py"]
