"""Tell the format of a file in a release by what is in it, and hold it to that format's strict form.

Pure functions over the bytes of one file (a buffer, which may be a map of the file): nothing is ever loaded,
unpickled or imported. Run by `releases.inspect` in a process of its own, since a hostile file may still cost
memory or time. A file that claims one format and is another is a finding of its own.
"""

from __future__ import annotations

import io
import math
import pickletools
import posixpath
import re
import zipfile
import zlib
from collections.abc import Container, Iterator
from typing import Literal

import msgspec
import orjson

from nightproof.base.strictjson import JsonRefused, parse

Class = Literal["text", "data", "pickle", "native", "unknown"]
"""text: people can read it; data: cannot run code; pickle, native: run code when they are loaded."""

Buffer = bytes | memoryview

_HEAD_BYTES = 4_096
_SAFETENSORS_HEADER_BYTES = 16 * 1024 * 1024
_SAFETENSORS_MOST = 100_000
_SAFETENSORS_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_JSON_MOST_BYTES = 64 * 1024 * 1024
_ZIP_MOST = 20_000
_PICKLE_MOST_BYTES = 64 * 1024 * 1024
_MOST_GLOBALS = 60
_MOST_FIELDS = 2_000_000

_TEXTS = {
    ".py", ".pyi", ".txt", ".md", ".rst", ".toml", ".yaml", ".yml", ".cfg", ".ini", ".lock", ".sql", ".html",
    ".jinja", ".j2", ".csv", ".tsv", ".vocab", ".tmpl", ".lgb", "",
}  # fmt: skip
"""Names that say: text. What lies inside must be UTF-8."""
_PICKLES = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".dill", ".cloudpickle", ".sav"}
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    ValueError,
    NotImplementedError,  # zipfile's word for a compression that it does not know
    OSError,
    RuntimeError,
    EOFError,
    zlib.error,
)
_INERT = (
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("GIF", 0, b"GIF8"),
    ("Arrow", 0, b"ARROW1\0\0"),
    ("SQLite", 0, b"SQLite format 3\0"),
    ("CatBoost", 0, b"CBM1"),
    ("TensorFlow Lite", 4, b"TFL3"),
)
"""Other data that does not run when it is loaded: name, place and bytes that it begins with."""
_ONNX_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training"}


class Looked(msgspec.Struct, frozen=True):
    """What a file is."""

    format: str
    kind: Class
    problem: str = ""
    """Why it is not what it claims to be, or breaks its format; empty: it is sound."""
    evidence: list[str] = []
    """What else was seen in it: for people, never a reason to accept."""


def look(name: str, content: Buffer, *, beside: Container[str] = ()) -> Looked:
    """Tell what a file is. Reads only as much as its format needs; `beside` are the paths of the release's files."""
    head = bytes(content[:_HEAD_BYTES])
    suffix = _suffix(name)
    if head[:4] == b"\x7fELF" or (head[:2] == b"MZ" and b"\0" in head) or head[:4] in _MACHO:
        return Looked("native code", "native")
    if suffix in (
        ".safetensors",
        ".onnx",
        ".skops",
        ".npy",
        ".npz",
        ".json",
        ".jsonl",
        ".parquet",
        ".gguf",
        ".ubj",
    ):
        found = _onnx(name, content, beside) if suffix == ".onnx" else _CLAIMED[suffix](content)
        return _unless_pickle(found, head, content) if found.problem else found
    if _looks_like_pickle(head):
        return _pickle(suffix, content)
    if head[:4] == b"PK\x03\x04":
        return _zip(suffix, content)
    for form, at, magic in _INERT:
        if head[at : at + len(magic)] == magic:
            return Looked(form, "data")
    if suffix in _PICKLES:
        return Looked("pickle", "pickle", evidence=["compressed, so that what it imports cannot be listed"])
    if suffix in _TEXTS or _is_text(head):
        return _text(suffix, content)
    return Looked("unknown", "unknown")


_MACHO = {
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
}


def _suffix(name: str) -> str:
    last = name.rpartition("/")[2]
    return "." + last.rpartition(".")[2].lower() if "." in last[1:] else ""


def _unless_pickle(found: Looked, head: bytes, content: Buffer) -> Looked:
    """Say so where what breaks a format is a pickle under its name: that is no accident."""
    inside = head[:4] == b"PK\x03\x04" and _zip("", content).kind == "pickle"
    if _looks_like_pickle(head) or inside:
        return Looked(
            found.format, "pickle", f"it is a pickle that calls itself {found.format}", _globals(content)
        )
    return found


def _looks_like_pickle(head: bytes) -> bool:
    # Protocol 2 and later begin with PROTO; 0 and 1 with an opcode, so the first ones that import are looked for.
    if len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return True
    return re.match(rb"(?:\(|\]|\}|\))*c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n", head) is not None


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 4 and len(head) == _HEAD_BYTES
    return True


def _text(suffix: str, content: Buffer) -> Looked:
    form = {".py": "Python source", ".csv": "CSV", ".tsv": "CSV"}.get(suffix, "text")
    step = 1 << 20
    kept = b""
    for at in range(0, len(content), step):
        part = kept + bytes(content[at : at + step])
        if b"\0" in part:
            return Looked(form, "unknown", "it holds zero bytes, so it is no text")
        try:
            part.decode("utf-8")
            kept = b""
        except UnicodeDecodeError as error:
            if error.start < len(part) - 4 or at + step >= len(content):
                return Looked(form, "unknown", "it is not UTF-8, so it is no text")
            kept = part[error.start :]
    return Looked(form, "text")


# -- data that cannot run ----------------------------------------------------------------------


def _json(content: Buffer) -> Looked:
    if len(content) > _JSON_MOST_BYTES:
        return Looked("JSON", "data", f"it is larger than {_JSON_MOST_BYTES} bytes, so it was not read")
    try:
        orjson.loads(bytes(content))
    except orjson.JSONDecodeError:
        return Looked("JSON", "unknown", "it is not JSON")
    return Looked("JSON", "data")


def _json_lines(content: Buffer) -> Looked:
    for number, line in enumerate(io.BytesIO(bytes(content)), 1):
        if line.strip():
            try:
                orjson.loads(line)
            except orjson.JSONDecodeError:
                return Looked("JSON lines", "unknown", f"line {number} is not JSON")
    return Looked("JSON lines", "data")


def _parquet(content: Buffer) -> Looked:
    whole = len(content) >= 12 and bytes(content[:4]) == b"PAR1" == bytes(content[-4:])
    length = int.from_bytes(bytes(content[-8:-4]), "little") if whole else 0
    if not whole or not 0 < length <= len(content) - 12:
        return Looked("Parquet", "unknown", "it does not begin and end as Parquet does")
    return Looked("Parquet", "data")


def _gguf(content: Buffer) -> Looked:
    if bytes(content[:4]) != b"GGUF":
        return Looked("GGUF", "unknown", "it does not begin as GGUF does")
    return Looked("GGUF", "data")


def _ubj(content: Buffer) -> Looked:
    if bytes(content[:1]) != b"{":
        return Looked("UBJSON", "unknown", "it does not begin as UBJSON does")
    return Looked("UBJSON", "data")


def _npy(content: Buffer) -> Looked:
    if bytes(content[:6]) != b"\x93NUMPY" or len(content) < 12:
        return Looked("npy", "unknown", "it does not begin as npy does")
    wide = content[6] >= 2
    length = int.from_bytes(bytes(content[8:12] if wide else content[8:10]), "little")
    header = bytes(content[(12 if wide else 10) : (12 if wide else 10) + min(length, 65_536)])
    described = re.search(rb"'descr':\s*(.+?),\s*'fortran_order'", header, re.DOTALL)
    if described is None:
        return Looked("npy", "unknown", "its header cannot be read")
    if re.search(rb"['\"][|<>=]?O\d*['\"]", described[1]):
        return Looked("npy", "pickle", "its values are Python objects, which are a pickle")
    return Looked("npy", "data")


def _npz(content: Buffer) -> Looked:
    return _archive("npz", content, {".npy"})


def _skops(content: Buffer) -> Looked:
    found = _archive("skops", content, {".npy", ".npz", ".json", ".bin"})
    if found.problem or found.kind != "data":
        return found
    with zipfile.ZipFile(_Stream(content)) as archive:
        try:
            schema = archive.read("schema.json")
        except KeyError:
            return Looked("skops", "unknown", "it has no schema.json")
    try:
        tree = parse(schema, max_depth=1_000) if len(schema) < _JSON_MOST_BYTES else None
    except (JsonRefused, RecursionError):
        return Looked("skops", "unknown", "its schema.json is not JSON")
    kinds = sorted(_names_in(tree))
    return Looked("skops", "data", evidence=[f"names {', '.join(kinds[:_MOST_GLOBALS])}"] if kinds else [])


def _names_in(tree: object) -> set[str]:
    """Return the types that a skops file names."""
    found: set[str] = set()
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            module, name, loader = node.get("__module__"), node.get("__class__"), node.get("__loader__")
            if isinstance(module, str) and isinstance(name, str):
                found.add(f"{module}.{name}")
            if loader in ("OperatorFuncNode", "MethodNode", "FunctionNode"):
                found.add(str(loader))
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
    return found


def _archive(form: str, content: Buffer, allowed: set[str]) -> Looked:
    """Hold a zip to a list of plain members of known kinds."""
    try:
        with zipfile.ZipFile(_Stream(content)) as archive:
            members = archive.infolist()
            if len(members) > _ZIP_MOST:
                return Looked(form, "unknown", f"it has {len(members)} members")
            for one in members:
                inner = _suffix(one.filename)
                if inner in _PICKLES or one.filename.endswith("data.pkl"):
                    return Looked(
                        form, "pickle", f"it is a pickle that calls itself {form}: {one.filename[:80]}"
                    )
                if inner not in allowed or ".." in one.filename.split("/") or one.filename.startswith("/"):
                    return Looked(form, "unknown", f"its member {one.filename[:80]!r} does not belong there")
                if one.flag_bits & 0x1:
                    return Looked(form, "unknown", f"its member {one.filename[:80]!r} is encrypted")
                if inner == ".npy":
                    with archive.open(one) as member:
                        found = _npy(member.read(_HEAD_BYTES * 4))
                    if found.problem:
                        return Looked(form, found.kind, f"{one.filename[:80]}: {found.problem}")
    except _BROKEN_ZIP as error:
        return Looked(form, "unknown", f"it is no sound zip ({type(error).__name__})")
    return Looked(form, "data")


def _safetensors(content: Buffer) -> Looked:
    """Parse a safetensors header strictly: unique keys, known types, and spans that cover the file exactly."""
    form = "safetensors"
    if len(content) < 8:
        return Looked(form, "unknown", "it is shorter than its own header")
    length = int.from_bytes(bytes(content[:8]), "little")
    if length > _SAFETENSORS_HEADER_BYTES or length > len(content) - 8:
        return Looked(form, "unknown", f"its header says {length} bytes")
    try:
        header = parse(bytes(content[8 : 8 + length]))
    except (JsonRefused, RecursionError) as error:
        return Looked(form, "unknown", f"its header is not JSON ({error})")
    if not isinstance(header, dict) or len(header) > _SAFETENSORS_MOST:
        return Looked(form, "unknown", "its header is no list of tensors")
    spans = []
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        span = _span_of(tensor)
        if span is None:
            return Looked(form, "unknown", "a tensor's type, shape and place do not agree")
        spans.append(span)
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            return Looked(form, "unknown", "its tensors overlap or leave holes")
        at = end
    if at != len(content) - 8 - length:
        return Looked(form, "unknown", "its tensors do not cover the file")
    return Looked(form, "data")


def _span_of(tensor: object) -> tuple[int, int] | None:
    if not isinstance(tensor, dict) or tensor.keys() != {"dtype", "shape", "data_offsets"}:
        return None
    bits, shape, offsets = _SAFETENSORS_BITS.get(tensor["dtype"]), tensor["shape"], tensor["data_offsets"]
    if bits is None or not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return None
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in (*shape, *offsets)):
        return None
    size_bits = math.prod(shape) * bits
    if size_bits % 8 or offsets[1] - offsets[0] != size_bits // 8:
        return None
    return offsets[0], offsets[1]


def _onnx(name: str, content: Buffer, beside: Container[str]) -> Looked:
    """Walk an ONNX model's protobuf for what reaches outside of it: other files, and operators of one's own."""
    form = "ONNX"
    view = memoryview(content)
    domains: set[str] = set()
    outside: set[str] = set()
    has_graph = False
    try:
        for number, value in _fields(view):
            if number == 7 and isinstance(value, memoryview):
                has_graph = True
                _walk_graph(value, domains, outside, 0)
            elif number == 8 and isinstance(value, memoryview):
                domains |= {_utf8(inner) for field, inner in _fields(value) if field == 1}
    except (ValueError, IndexError, UnicodeDecodeError, RecursionError):
        return Looked(form, "unknown", "it is no sound ONNX model")
    if not has_graph:
        return Looked(form, "unknown", "it has no graph")
    if strange := sorted(domains - _ONNX_DOMAINS):
        custom = f"operators of {', '.join(strange[:5])}, which need native code"
        return Looked(form, "native", evidence=[custom])
    folder = name.rpartition("/")[0]
    for other in sorted(outside):
        if posixpath.normpath(posixpath.join(folder, other)) not in beside or posixpath.isabs(other):
            return Looked(
                form, "unknown", f"it keeps weights in a file outside of the release: {other[:80]!r}"
            )
    return Looked(form, "data")


def _walk_graph(graph: memoryview, domains: set[str], outside: set[str], depth: int) -> None:
    if depth > 32:
        raise ValueError("a graph in a graph, too deep")
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            _walk_node(value, domains, outside, depth)
        elif number == 5:
            outside |= _outside(value)


def _walk_node(node: memoryview, domains: set[str], outside: set[str], depth: int) -> None:
    for number, value in _fields(node):
        if number == 7:
            domains.add(_utf8(value))
        elif number == 5 and isinstance(value, memoryview):
            for field, inner in _fields(value):
                if field in (6, 11) and isinstance(inner, memoryview):
                    _walk_graph(inner, domains, outside, depth + 1)
                elif field in (5, 10) and isinstance(inner, memoryview):
                    outside |= _outside(inner)


def _outside(tensor: memoryview) -> set[str]:
    """Return the files in which a tensor keeps its data, other than the model's own."""
    found = set()
    for number, value in _fields(tensor):
        if number == 13 and isinstance(value, memoryview):
            entry = dict(_fields(value))
            if _utf8(entry.get(1, memoryview(b""))) == "location":
                found.add(_utf8(entry.get(2, memoryview(b""))))
        elif number == 14 and value == 1:
            found.add("(unnamed)")
    named = found - {"(unnamed)"}
    return named or found


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of a protobuf message's fields."""
    at = count = 0
    while at < len(message):
        count += 1
        if count > _MOST_FIELDS:
            raise ValueError("too many fields")
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("a field of no known kind")
        if number == 0 or at + size > len(message):
            raise ValueError("a field beyond its message")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without an end")


def _utf8(value: int | memoryview) -> str:
    return bytes(value).decode("utf-8") if isinstance(value, memoryview) else ""


# -- what runs when it is loaded ---------------------------------------------------------------


def _zip(suffix: str, content: Buffer) -> Looked:
    """Tell what a zip is: torch's holds a pickle, others are not taken."""
    try:
        with zipfile.ZipFile(_Stream(content)) as archive:
            names = archive.namelist()[:_ZIP_MOST]
            inner = next(
                (name for name in names if name.endswith("data.pkl") or _suffix(name) in _PICKLES), None
            )
            if inner is not None or suffix in _PICKLES:
                evidence = []
                if inner is not None:
                    with archive.open(inner) as member:
                        evidence = _globals(member.read(_PICKLE_MOST_BYTES))
                return Looked("pickle in a zip", "pickle", evidence=evidence)
    except _BROKEN_ZIP:
        return Looked("zip", "pickle" if suffix in _PICKLES else "unknown", "it is no sound zip")
    return Looked("zip", "unknown")


def _pickle(suffix: str, content: Buffer) -> Looked:
    claims_pickle = suffix in _PICKLES or suffix in (".bin", ".dat", ".model", "")
    problem = "" if claims_pickle else f"it is a pickle that calls itself {suffix.lstrip('.') or 'text'}"
    return Looked("pickle", "pickle", problem, _globals(content))


def _globals(content: Buffer) -> list[str]:
    """List what a pickle imports, as far as it can be read without running it: evidence, never a permission."""
    found: dict[str, None] = {}
    texts: list[str] = []
    memo: list[str] = []
    last = ""
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(bytes(content[:_PICKLE_MOST_BYTES]))):
            if opcode.name == "MEMOIZE":
                memo.append(last)
                continue
            last = argument if isinstance(argument, str) else ""
            if (
                opcode.name in ("BINGET", "LONG_BINGET")
                and isinstance(argument, int)
                and argument < len(memo)
            ):
                last = memo[argument]
            if opcode.name in ("GLOBAL", "INST"):
                found[last.replace(" ", ".")] = None
            elif opcode.name == "STACK_GLOBAL":
                found[".".join(texts[-2:])] = None
            elif last:
                texts = [*texts[-7:], last]
            if len(found) > _MOST_GLOBALS:
                break
    except Exception as error:  # noqa: BLE001
        # pickletools raises all kinds, on raw arrays between opcodes as on hostile streams; told as far as it got.
        return [
            f"imports {', '.join(found) or 'nothing readable'}; unread from there ({type(error).__name__})"
        ]
    return [f"imports {', '.join(found) or 'nothing'}"]


class _Stream(io.RawIOBase):
    """A file over a buffer, without a copy."""

    def __init__(self, content: Buffer) -> None:
        self._view = memoryview(content)
        self._at = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        self._at = max(0, {0: 0, 1: self._at, 2: len(self._view)}[whence] + offset)
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read."""
        part = self._view[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


_CLAIMED = {
    ".safetensors": _safetensors,
    ".skops": _skops,
    ".npy": _npy,
    ".npz": _npz,
    ".json": _json,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
    ".gguf": _gguf,
    ".ubj": _ubj,
}
