"""The folder that holds everything that must survive: ledger, registry, keys, bundles, socket.

Opened by the command line and by `runtime` before anything else. Promises: private to its user (0700), on a
file system whose locks and syncs hold, one server at a time, and known at start whether the last run said
goodbye. Never opens a database itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from nightproof.base.clock import iso_us, monotonic_s, utc_us
from nightproof.base.errors import StateError

FORM = "nightproof state 1\n"
LONGEST_SOCKET_BYTES = 107
"""What fits into a Unix socket's address, without its closing zero byte."""

_MARK = "nightproof-state"
_MOST_RELEASES = 10_000
_DYING_WITHIN_S = 5.0
_LOOK_AGAIN_S = 0.02
_HARMLESS = frozenset({"lost+found", ".gitignore"})
_NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "9p",
        "fuse",
        "fuseblk",
        "afs",
        "ceph",
        "lustre",
        "coda",
    }
    | {"ncpfs", "vboxsf", "prl_fs", "gfs2", "ocfs2"}
)


class StateTaken(StateError):
    """Another server works on this state folder."""

    exit_code = 75  # EX_TEMPFAIL: the folder may be free later


class Owner(msgspec.Struct, frozen=True):
    """The server that has, or last had, the folder."""

    pid: int
    boot_id: str
    started_us: int


class Declared(msgspec.Struct, frozen=True):
    """What services declared about their content."""

    keep_days: dict[str, float] = {}
    """By service, for how many days it is kept."""
    sensitive: dict[str, list[str]] = {}
    """By service and release, as `service release`: pointers to the fields that are shown masked."""


class StateFolder:
    """The folder, checked and ready. Make one with `StateFolder.open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd: int | None = None

    @classmethod
    def open(cls, path: Path, *, create: bool = True, unsafe_fs: bool = False) -> StateFolder:
        """Check the folder, and make it where it is missing. Raises StateError with what to do.

        `create=False` is for those who only look: nothing is written, so a full disk does not stop them.
        `unsafe_fs` allows network and FUSE file systems, where a lock or a sync may mean nothing.
        """
        path = path.absolute()
        if not create:
            if not (path / _MARK).is_file():
                raise StateError(
                    f"There is no state folder {path}.",
                    hint="Start the server first, or name the folder with --state.",
                )
            _refuse_foreign(path)
            return cls(path)
        _make(path)
        if not unsafe_fs:
            _refuse_network(path)
        _refuse_foreign(path)
        _make_private(path)
        _refuse_unwritable(path)
        return cls(path)

    @property
    def ledger_db(self) -> Path:
        """The audit log; only what `audit verify` covers."""
        return self.path / "ledger.db"

    @property
    def registry_db(self) -> Path:
        """Releases, and which one is live."""
        return self.path / "registry.db"

    @property
    def comparisons_db(self) -> Path:
        """What shadows and replays found."""
        return self.path / "comparisons.db"

    @property
    def watch_db(self) -> Path:
        """Windows of the meters, kept across restarts."""
        return self.path / "watch.db"

    @property
    def drift_db(self) -> Path:
        """Profiles of releases, and where their drift detectors stand; sealed."""
        return self.path / "drift.db"

    @property
    def feedback_db(self) -> Path:
        """Labels that callers gave afterwards; sealed."""
        return self.path / "feedback.db"

    @property
    def usage_db(self) -> Path:
        """What keys have used of their token budgets today."""
        return self.path / "usage.db"

    @property
    def keyring_db(self) -> Path:
        """API keys, hashed."""
        return self.path / "keyring.db"

    @property
    def keyring_pepper(self) -> Path:
        """The secret without which the hashes of keys mean nothing."""
        return self.path / "keyring.pepper"

    @property
    def vault_db(self) -> Path:
        """The data keys of everything that is kept sealed."""
        return self.path / "vault.db"

    @property
    def reserve(self) -> Path:
        """Space that is held back for operators."""
        return self.path / "reserve"

    @property
    def spill(self) -> Path:
        """Where records are spilled unless another folder is set."""
        return self.path / "spill"

    @property
    def anchor(self) -> Path:
        """The newest signed checkpoint of the ledger, outside its file."""
        return self.path / "checkpoint.note"

    @property
    def vkey(self) -> Path:
        """The public key that checkpoints verify with."""
        return self.path / "ledger.vkey"

    @property
    def quarantine_db(self) -> Path:
        """Records that were set aside."""
        return self.path / "quarantine.db"

    @property
    def alerts_db(self) -> Path:
        """Alerts, and what receivers are still to be told."""
        return self.path / "alerts.db"

    @property
    def bundles(self) -> Path:
        """Snapshots of service folders, by digest."""
        return self.path / "bundles"

    @property
    def releases(self) -> Path:
        """What was signed of each release: a folder a service, a file a version."""
        return self.path / "releases"

    @property
    def environments(self) -> Path:
        """Environments of releases that bring locked requirements."""
        return self.path / "environments"

    @property
    def trusted_keys(self) -> Path:
        """Public keys whose releases are accepted."""
        return self.path / "trusted"

    @property
    def socket(self) -> Path:
        """Where operators' verbs reach the running server; elsewhere when this path is too long for a socket.

        Asking does not make anything; the server calls `prepare_socket` first.
        """
        near = self.path / "control.sock"
        if len(os.fsencode(near)) <= LONGEST_SOCKET_BYTES:
            return near
        try:
            return Path((self.path / "control.path").read_text(encoding="utf-8").strip())
        except OSError:
            return near

    def prepare_socket(self) -> Path:
        """Return the path to bind the control socket to, free of what an earlier run left there."""
        near = self.path / "control.sock"
        if len(os.fsencode(near)) > LONGEST_SOCKET_BYTES:
            near = _short_folder(self.path) / "control.sock"
            write_durably(self.path / "control.path", f"{near}\n".encode())
        near.unlink(missing_ok=True)
        return near

    def lock(self) -> None:
        """Take the folder for this process until `unlock` or its end; raise StateTaken where it is taken."""
        if self._lock_fd is not None:
            return
        # Not inherited by workers: one that outlives the server must not keep the folder.
        try:
            fd = os.open(self.path / "server.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(
                f"The state folder {self.path} cannot be locked: {error.strerror}.",
                hint="Make it writable for the server.",
            ) from error
        try:
            self._take(fd)
        except OSError as error:
            os.close(fd)
            owner = self.owner()
            who = f"process {owner.pid}, since {iso_us(owner.started_us)}" if owner else "another process"
            raise StateTaken(
                f"The state folder {self.path} is in use by another server ({who}).",
                hint="Stop that server, or give this one its own folder with --state.",
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, msgspec.json.encode(_this_process()), 0)
        self._lock_fd = fd

    def _take(self, fd: int) -> None:
        """Lock the file; of a server that is dead, wait a moment for the writer of its log, which dies with it."""
        until_s = monotonic_s() + _DYING_WITHIN_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if self.owner() is not None or monotonic_s() > until_s:
                    raise
            time.sleep(_LOOK_AGAIN_S)

    @property
    def lock_fd(self) -> int:
        """The lock's file descriptor, for the one child that keeps the folder too while it lives. Only under `lock`."""
        if self._lock_fd is None:
            raise RuntimeError("the state folder is not locked")
        return self._lock_fd

    def unlock(self) -> None:
        """Give the folder back. Twice is fine."""
        if self._lock_fd is not None:
            os.ftruncate(self._lock_fd, 0)
            os.close(self._lock_fd)
            self._lock_fd = None

    def owner(self) -> Owner | None:
        """Return the server that has the folder, as far as its record says and it is alive."""
        owner = _read_owner(self.path / "server.lock")
        if owner is None or owner.boot_id != _boot_id() or not Path(f"/proc/{owner.pid}").exists():
            return None
        return owner

    @property
    def was_unclean(self) -> bool:
        """Whether the run before ended without `mark_stopped`; to be asked before `mark_running`."""
        return self._running.exists()

    def mark_running(self) -> None:
        """Note that a run begins."""
        write_durably(self._running, msgspec.json.encode(_this_process()))

    def mark_stopped(self) -> None:
        """Note that this run ends as it should."""
        try:
            self._running.unlink(missing_ok=True)
            sync_folder(self.path)
        except OSError as error:
            raise StateError(
                f"{self._running} cannot be removed: {error.strerror}.",
                hint="The next start will look for damage.",
            ) from error

    def declared(self) -> Declared:
        """Return what services declared about their content when they were served last."""
        try:
            return msgspec.json.decode((self.path / "declared.json").read_bytes(), type=Declared)
        except (OSError, msgspec.DecodeError):
            return Declared()  # nothing is known: nothing goes by time, and all is shown masked

    def remember(
        self,
        *,
        keep_days: Mapping[str, float] | None = None,
        sensitive: Mapping[str, list[str]] | None = None,
    ) -> Declared:
        """Add what is declared now, for the time when it is served no longer; return all that is known."""
        known = self.declared()
        merged = Declared(
            {**known.keep_days, **(keep_days or {})},
            dict([*{**known.sensitive, **(sensitive or {})}.items()][-_MOST_RELEASES:]),
        )
        if merged != known:
            write_durably(self.path / "declared.json", msgspec.json.encode(merged))
        return merged

    def disk_free_bytes(self) -> int:
        """Return the space that is left for us on the folder's disk."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    @property
    def _running(self) -> Path:
        return self.path / "running"

    def __repr__(self) -> str:
        return f"<StateFolder {self.path} {'locked' if self._lock_fd is not None else 'not locked'}>"


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file's content so that a crash leaves the old or the new one, mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StateError(
            f"{path} cannot be written: {error.strerror}.",
            hint="Free space, or make the state folder writable.",
        ) from error


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in another's place: after a crash it is the old or the new one. Raises OSError.

    Cheaper than `write_durably`: which of the two it is after a power cut is left open.
    """
    beside = path.with_name(f".{path.name}.new")
    fd = os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fdatasync(file.fileno())
    os.replace(beside, path)


def sync_folder(path: Path) -> None:
    """Make created, renamed and removed names of a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def file_system_of(path: Path, mountinfo: str) -> str:
    """Return the type of the file system that holds an absolute path, by the text of /proc/self/mountinfo."""
    best, found = -1, ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        mount = Path(_unescaped(fields[4]))
        # Of two mounts on one point the later hides the earlier.
        if path.is_relative_to(mount) and len(mount.parts) >= best:
            best, found = len(mount.parts), after.split(" ")[0]
    return found


def is_network(file_system: str) -> bool:
    """Say whether a type of file system may break locks, syncs or shared memory."""
    return file_system in _NETWORK or file_system.startswith("fuse.")


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _make(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"The state folder {path} cannot be made: {error.strerror}.",
            hint="Name a writable place with --state.",
        ) from error


def _refuse_network(path: Path) -> None:
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    file_system = file_system_of(path.resolve(), mountinfo)
    if is_network(file_system):
        raise StateError(
            f"The state folder {path} is on {file_system}, where a lock or a sync may mean nothing.",
            hint="Name a folder on a local disk with --state, or take the risk with --unsafe-fs.",
        )


def _refuse_foreign(path: Path) -> None:
    """Refuse a folder with other people's files, before its permissions are changed."""
    mark = path / _MARK
    try:
        if mark.exists():
            found = mark.read_text(encoding="utf-8")
            if found != FORM:
                raise StateError(
                    f"The state folder {path} has another form ({found.strip()!r}).",
                    hint="Use the Nightproof that made it, or name another folder with --state.",
                )
            return
        others = sorted(one.name for one in path.iterdir() if one.name not in _HARMLESS)
    except OSError as error:
        raise StateError(
            f"The state folder {path} cannot be read: {error.strerror}.",
            hint="Give it to the server's user, mode 0700.",
        ) from error
    if others:
        raise StateError(
            f"{path} is not a state folder: it holds {', '.join(others[:3])}.",
            hint="Name a new or empty folder with --state.",
        )


def _make_private(path: Path) -> None:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        try:
            path.chmod(0o700)
        except OSError as error:
            raise StateError(
                f"The state folder {path} is open to other users.",
                hint="Give it to the server's user, mode 0700, or name a new folder inside it with --state.",
            ) from error


def _refuse_unwritable(path: Path) -> None:
    """Write what every state folder has, which also shows that it can be written."""
    if not (path / ".gitignore").exists():
        # The folder may lie in a repository, and it holds secrets.
        write_durably(path / ".gitignore", b"*\n")
    if not (path / _MARK).exists():
        write_durably(path / _MARK, FORM.encode())
    probe = path / f".probe.{os.getpid()}"
    try:
        (path / "bundles").mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(probe, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        probe.unlink()
    except OSError as error:
        raise StateError(
            f"The state folder {path} cannot be written: {error.strerror}.",
            hint="Give it to the server's user, mode 0700, on a file system that is not read-only.",
        ) from error


def _short_folder(path: Path) -> Path:
    """Make a private folder with a short path, the same one for the same state folder."""
    name = f"nightproof-{os.geteuid()}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"
    runtime = Path("/run") if os.geteuid() == 0 else Path(f"/run/user/{os.geteuid()}")
    base = runtime if os.access(runtime, os.W_OK) else Path(tempfile.gettempdir())
    short = base / name
    with contextlib.suppress(FileExistsError):
        short.mkdir(mode=0o700)
    found = short.lstat()
    # Others can make names in a shared temporary folder too.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise StateError(
            f"{short} is not a private folder of ours.",
            hint="Remove it, or name a state folder with a shorter path.",
        )
    return short


def _this_process() -> Owner:
    return Owner(pid=os.getpid(), boot_id=_boot_id(), started_us=utc_us())


def _read_owner(path: Path) -> Owner | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Owner)
    except (OSError, msgspec.DecodeError):
        return None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
