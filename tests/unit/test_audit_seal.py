"""Signed notes, checkpoints and proof files: what is signed is read back, anything else is refused."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nightproof.audit.seal import (
    NoteRefused,
    Signer,
    Verifier,
    add_checkpoint_body,
    check_consistency_file,
    check_proof_file,
    checkpoint_note,
    consistency_file,
    is_consistency_file,
    new_private_key,
    open_note,
    parse_checkpoint,
    proof_file,
)
from nightproof.audit.tree import Tree, consistency_proof, leaf_hash, node_hash
from nightproof.storage.ledger_rows import Tile

ROOT = bytes(range(32))
SIGNER = Signer("example.com/log", bytes(32))
OTHER = Signer("example.com/log", bytes(31) + b"\x01")
VERIFIER, OTHER_VERIFIER = Verifier(SIGNER.vkey), Verifier(OTHER.vkey)
NOTE = checkpoint_note(SIGNER.name, 7, ROOT, [SIGNER])
LEAF = b'{"id":"one"}'
SIBLINGS = [sha256(b"left").digest(), sha256(b"right").digest()]
WITNESSED_S = 1_700_000_000


def cosigned(text: str, *, name: str = "witness.example/w1", time_s: int = WITNESSED_S) -> tuple[str, str]:
    """Return a witness's key and its line on a note, after C2SP tlog-cosignature, made without our code."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = b"\x04" + key.public_key().public_bytes_raw()
    key_id = sha256(name.encode() + b"\n" + public).digest()[:4]
    signature = key.sign(f"cosignature/v1\ntime {time_s}\n{text}".encode())
    line = base64.b64encode(key_id + time_s.to_bytes(8, "big") + signature).decode()
    return f"{name}+{key_id.hex()}+{base64.b64encode(public).decode()}", f"— {name} {line}\n"


def signed(text: str, signer: Signer = SIGNER) -> bytes:
    """Return a note of any text."""
    return (text + "\n" + signer.sign(text)).encode()


def test_a_key_and_its_id_have_the_form_of_c2sp() -> None:
    public = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()

    name, key_id, encoded = SIGNER.vkey.split("+", 2)

    assert name == "example.com/log"
    assert base64.b64decode(encoded) == b"\x01" + public
    assert key_id == sha256(b"example.com/log\n\x01" + public).hexdigest()[:8]
    assert repr(VERIFIER) == f"<Verifier example.com/log+{key_id}>"
    assert repr(SIGNER) == "<Signer example.com/log>"


def test_the_signature_is_made_over_the_text_and_names_its_key() -> None:
    text, _, line = NOTE.decode().rpartition("\n\n")

    mark, name, encoded = line.rstrip("\n").split(" ")
    raw = base64.b64decode(encoded)

    assert text == f"example.com/log\n7\n{base64.b64encode(ROOT).decode()}"
    assert (mark, name) == ("—", "example.com/log")
    assert raw[:4].hex() == SIGNER.vkey.split("+")[1]
    Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().verify(raw[4:], f"{text}\n".encode())


def test_a_checkpoint_is_read_back_as_it_was_signed() -> None:
    found = parse_checkpoint(NOTE, [VERIFIER])

    assert (found.origin, found.size, found.root) == ("example.com/log", 7, ROOT)
    assert found.signed_by == ("example.com/log",)


def test_a_checkpoint_over_nothing_and_one_with_more_lines_are_read() -> None:
    assert parse_checkpoint(checkpoint_note(SIGNER.name, 0, ROOT, [SIGNER]), [VERIFIER]).size == 0
    extended = signed(f"example.com/log\n7\n{base64.b64encode(ROOT).decode()}\nanother line\n")
    assert parse_checkpoint(extended, [VERIFIER]).size == 7


def test_each_key_that_is_known_is_named_and_unknown_ones_are_passed_over() -> None:
    second = Signer("second.example", new_private_key())
    note = checkpoint_note(SIGNER.name, 7, ROOT, [SIGNER, second])

    assert open_note(note, [VERIFIER])[1] == (SIGNER.name,)
    assert open_note(note, [Verifier(second.vkey), VERIFIER])[1] == (SIGNER.name, "second.example")
    assert open_note(note, [])[1] == ()


def test_blank_lines_in_a_text_belong_to_it() -> None:
    text = "one\n\ntwo\n\n\nthree\n"

    assert open_note(signed(text), [VERIFIER]) == (text, (SIGNER.name,))


def test_another_key_of_the_same_name_is_refused() -> None:
    assert SIGNER.vkey != OTHER.vkey

    with pytest.raises(NoteRefused, match="No key that is trusted"):
        parse_checkpoint(NOTE, [OTHER_VERIFIER])


def test_a_wrong_signature_under_a_known_keys_id_is_refused_even_beside_a_good_one() -> None:
    good = SIGNER.sign("text\n")
    wrong = SIGNER.sign("another text\n")

    for lines in (wrong, good + wrong, wrong + good):
        with pytest.raises(NoteRefused, match="is wrong"):
            open_note(f"text\n\n{lines}".encode(), [VERIFIER])


def test_a_note_with_any_bit_changed_is_refused() -> None:
    for spoilt in with_one_bit_changed(NOTE):
        with pytest.raises(NoteRefused):
            parse_checkpoint(spoilt, [VERIFIER])


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n",
        b"text\n",
        b"text\n\n",
        b"text without its line break\n\n" + SIGNER.sign("text\n").encode()[:-1],
        b"text\n" + SIGNER.sign("text\n").encode(),
        b"text\n\n" + SIGNER.sign("text\n").encode() + b"\n",
        b"text\n\n" + SIGNER.sign("text\n").replace("—", "-").encode(),
        b"text\n\n" + SIGNER.sign("text\n").replace("— ", "—").encode(),
        b"text\n\nno signature\n" + SIGNER.sign("text\n").encode(),
        b"text\n\n" + "— example.com/log\n".encode(),
        b"text\n\n" + "— example.com/log !!!!\n".encode(),
        b"text\n\n" + SIGNER.sign("text\n").replace("\n", "\r\n").encode(),
        b"te\txt\n\n" + SIGNER.sign("te\txt\n").encode(),
        b"te\xffxt\n\n" + SIGNER.sign("text\n").encode(),
        b"text\n\n" + SIGNER.sign("text\n").encode() * 101,
        b"text\n\n" + SIGNER.sign("text\n").replace("\n", "\u2028").encode() + SIGNER.sign("text\n").encode(),
    ],
    ids=[
        "nothing", "a line break", "no signature", "an empty signature", "no last line break", "no blank line",
        "a blank line behind", "another mark", "no space", "another line", "a name alone", "not base64", "CRLF",
        "a control character", "not UTF-8", "too many signatures", "two signatures in one line",
    ],
)  # fmt: skip
def test_a_malformed_note_is_refused(note: bytes) -> None:
    with pytest.raises(NoteRefused):
        open_note(note, [VERIFIER])


@pytest.mark.parametrize(
    "text",
    [
        "example.com/log\n",
        "example.com/log\n7\n",
        f"\n7\n{base64.b64encode(ROOT).decode()}\n",
        f"example.com/log\n07\n{base64.b64encode(ROOT).decode()}\n",
        f"example.com/log\n-7\n{base64.b64encode(ROOT).decode()}\n",
        f"example.com/log\n+7\n{base64.b64encode(ROOT).decode()}\n",
        f"example.com/log\n7.0\n{base64.b64encode(ROOT).decode()}\n",
        f"example.com/log\n \n{base64.b64encode(ROOT).decode()}\n",
        f"example.com/log\n٧\n{base64.b64encode(ROOT).decode()}\n",
        f"example.com/log\n{'9' * 5_000}\n{base64.b64encode(ROOT).decode()}\n",
        f"example.com/log\n7\n{base64.b64encode(ROOT[1:]).decode()}\n",
        f"example.com/log\n7\n{base64.b64encode(ROOT).decode()[:-1]}\n",
        f"example.com/log\n7\n{base64.urlsafe_b64encode(bytes([255] * 32)).decode()}\n",
        f"example.com/log\n7\n{ROOT.hex()}\n",
        "example.com/log\n7\n\n",
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(text: str) -> None:
    note = signed(text)

    assert open_note(note, [VERIFIER])[0] == text, "the signature itself is good"
    with pytest.raises(NoteRefused):
        parse_checkpoint(note, [VERIFIER])


def test_base64_has_one_form_only() -> None:
    """Spare bits that mean nothing could otherwise be changed unseen."""
    whole = base64.b64encode(ROOT).decode()
    spare = whole[:-2] + chr(ord(whole[-2]) + 1) + "="
    assert base64.b64decode(spare) == ROOT

    with pytest.raises(NoteRefused, match="one form"):
        parse_checkpoint(signed(f"example.com/log\n7\n{spare}\n"), [VERIFIER])


@pytest.mark.parametrize("name", ["", "two words", "a+b", "tab\t", "line\nbreak", "no\u00a0break", "\u2028"])
def test_a_name_that_a_note_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(NoteRefused):
        Signer(name, bytes(32))


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "example.com/log",
        "example.com/log+",
        "example.com/log++",
        "+".join([*SIGNER.vkey.split("+", 2)[:2], ""]),
        "+".join(["another.example", *SIGNER.vkey.split("+", 2)[1:]]),
        "+".join([SIGNER.name, "00000000", SIGNER.vkey.split("+", 2)[2]]),
        "+".join([*OTHER.vkey.split("+", 2)[:2], SIGNER.vkey.split("+", 2)[2]]),
        f"{SIGNER.name}+00000000+{base64.b64encode(bytes([2]) + bytes(32)).decode()}",
        SIGNER.vkey[:-4],
    ],
)
def test_a_malformed_key_is_refused(vkey: str) -> None:
    with pytest.raises(NoteRefused):
        Verifier(vkey)


def test_a_key_with_any_bit_changed_is_refused() -> None:
    for spoilt in with_one_bit_changed(SIGNER.vkey.encode()):
        with pytest.raises(NoteRefused):
            Verifier(spoilt.decode("utf-8", "replace"))


def test_a_key_read_from_a_file_may_end_in_a_line_break() -> None:
    assert Verifier(f"{SIGNER.vkey}\n").key_id == VERIFIER.key_id


def test_a_witness_cosigns_with_its_time() -> None:
    text = open_note(NOTE, [])[0]
    vkey, line = cosigned(text)
    _, other_line = cosigned(text, time_s=WITNESSED_S + 1)
    raw, other = (base64.b64decode(one.split(" ")[2]) for one in (line, other_line))
    swapped = base64.b64encode(raw[:4] + other[4:12] + raw[12:]).decode()

    assert open_note(NOTE + line.encode(), [VERIFIER, Verifier(vkey)])[1] == (
        SIGNER.name,
        "witness.example/w1",
    )
    with pytest.raises(NoteRefused, match="is wrong"):
        open_note(NOTE + f"— witness.example/w1 {swapped}\n".encode(), [Verifier(vkey)])
    with pytest.raises(NoteRefused, match="is wrong"):
        cut = base64.b64encode(raw[:-1]).decode()
        open_note(NOTE + f"— witness.example/w1 {cut}\n".encode(), [Verifier(vkey)])


# -- proof files -------------------------------------------------------------------------------


def proof() -> bytes:
    """Return the proof of the second leaf of three."""
    root = node_hash(node_hash(SIBLINGS[0], leaf_hash(LEAF)), SIBLINGS[1])
    return proof_file(LEAF, 1, SIBLINGS, checkpoint_note(SIGNER.name, 3, root, [SIGNER]))


def test_a_proof_file_has_the_form_of_c2sp_and_proves_its_leaf() -> None:
    lines = proof().decode().split("\n")

    found = check_proof_file(proof(), [VERIFIER])

    assert lines[:3] == ["c2sp.org/tlog-proof@v1", f"extra {base64.b64encode(LEAF).decode()}", "index 1"]
    assert [base64.b64decode(line) for line in lines[3:5]] == SIBLINGS
    assert lines[5:8] == ["", "example.com/log", "3"]
    assert (found.leaf, found.index, found.checkpoint.size) == (LEAF, 1, 3)


def test_a_proof_file_with_any_bit_changed_is_refused() -> None:
    for spoilt in with_one_bit_changed(proof()):
        with pytest.raises(NoteRefused):
            check_proof_file(spoilt, [VERIFIER])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"c2sp.org/tlog-proof@v1\n", b""),
        (b"@v1", b"@v2"),
        (b"index 1\n", b""),
        (b"index 1", b"index 01"),
        (b"index 1", b"index -1"),
        (b"index 1", b"index 3"),
        (b"index 1", b"index 9" + b"9" * 5_000),
        (b"index 1\n", b"index 1\n" + base64.b64encode(SIBLINGS[0]) + b"\n"),
        (base64.b64encode(SIBLINGS[1]) + b"\n", b""),
        (base64.b64encode(SIBLINGS[1]), base64.b64encode(SIBLINGS[1][1:])),
        (base64.b64encode(SIBLINGS[1]), base64.b64encode(SIBLINGS[1]) + b"\r"),
        (b"\n\n", b"\n"),
        (b"extra ", b"extra \xff"),
        (base64.b64encode(LEAF), base64.b64encode(b'{"id":"two"}')),
    ],
)
def test_a_malformed_proof_file_is_refused(old: bytes, new: bytes) -> None:
    spoilt = proof().replace(old, new, 1)
    assert spoilt != proof()

    with pytest.raises(NoteRefused):
        check_proof_file(spoilt, [VERIFIER])


def test_a_proof_is_refused_without_the_right_key() -> None:
    with pytest.raises(NoteRefused):
        check_proof_file(proof(), [OTHER_VERIFIER])


def test_a_refusal_repeats_nothing_of_what_it_refuses() -> None:
    with pytest.raises(NoteRefused) as refused:
        open_note(b"the secret text\n\nno signature of it\n", [VERIFIER])

    assert "secret" not in str(refused.value)
    assert refused.value.hint


def test_a_witness_is_sent_what_it_knows_the_proof_and_the_note() -> None:
    body = add_checkpoint_body(5, SIBLINGS, NOTE)

    head, _, note = body.partition(b"\n\n")
    assert head.decode().split("\n") == ["old 5", *(base64.b64encode(one).decode() for one in SIBLINGS)]
    assert note == NOTE
    assert add_checkpoint_body(0, [], NOTE) == b"old 0\n\n" + NOTE


def with_one_bit_changed(content: bytes) -> list[bytes]:
    """Return every content that differs in one bit."""
    return [
        content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
        for at in range(len(content))
        for bit in range(8)
    ]


def grown(old: int, new: int, *, signer: Signer = SIGNER, forged: bool = False) -> bytes:
    """Return the file that shows how a log grew; with `forged`, of a log whose first record was exchanged."""
    leaves = [b"%d" % number for number in range(new)]
    first = checkpoint_note(signer.name, old, tree_of(leaves[:old]).root(), [signer])
    if forged:
        leaves[0] = b"another"
    second = checkpoint_note(signer.name, new, tree_of(leaves).root(), [signer])
    return consistency_file(first, second, consistency_proof(FewLeaves(leaves), old, new))


def tree_of(leaves: list[bytes]) -> Tree:
    """Return the tree over some leaves."""
    tree = Tree()
    tree.append([leaf_hash(leaf) for leaf in leaves])
    return tree


class FewLeaves:
    """A log of fewer leaves than a tile has."""

    def __init__(self, leaves: list[bytes]) -> None:
        self._leaves = leaves

    def size(self) -> int:
        """Return the number of leaves."""
        return len(self._leaves)

    def leaves(self, first_seq: int, most: int = 1_000) -> list[bytes]:
        """Return leaves."""
        return self._leaves[first_seq : first_seq + most]

    def tiles(self, level: int, first: int = 0, most: int = 100) -> list[Tile]:
        """There is none."""
        return []

    def tile_roots(self, level: int, first: int = 0, most: int = 1_000) -> list[bytes]:
        """There is none."""
        return []


@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 7), (4, 8), (7, 7), (6, 200), (128, 255)])
def test_a_consistency_file_shows_that_the_log_only_grew(old: int, new: int) -> None:
    file = grown(old, new)

    first, second = check_consistency_file(file, [VERIFIER])

    assert is_consistency_file(file)
    assert (first.size, second.size) == (old, new)
    assert not is_consistency_file(proof_file(LEAF, 0, [], NOTE))


def test_a_log_that_was_written_anew_has_no_consistency_file() -> None:
    with pytest.raises(NoteRefused, match="does not begin with"):
        check_consistency_file(grown(3, 7, forged=True), [VERIFIER])


def test_a_consistency_file_of_another_key_is_refused() -> None:
    with pytest.raises(NoteRefused):
        check_consistency_file(grown(3, 7, signer=OTHER), [VERIFIER])


def test_a_consistency_file_with_any_bit_changed_is_refused() -> None:
    for spoilt in with_one_bit_changed(grown(3, 7)):
        with pytest.raises(NoteRefused):
            check_consistency_file(spoilt, [VERIFIER])


@pytest.mark.parametrize("size", [0, 1, 30, 100, 200, 400])
def test_a_consistency_file_that_was_cut_off_is_refused(size: int) -> None:
    with pytest.raises(NoteRefused):
        check_consistency_file(grown(3, 7)[:size], [VERIFIER])
