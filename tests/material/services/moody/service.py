"""A service whose loading and answering go wrong by the word in the file `mood` of TMPDIR. For tests only."""

import os
import socket
import sys
import tempfile
import time
from pathlib import Path

from pydantic import BaseModel

from nightproof import Model, Service


class Given(BaseModel):
    x: float
    act: str = ""


class Answer(BaseModel):
    y: float


def mood() -> str:
    """Read the word; nothing when there is no file."""
    try:
        return (Path(tempfile.gettempdir()) / "mood").read_text().strip()
    except OSError:
        return ""


def speak_nonsense() -> None:
    """Write bytes that are no message into every socket of this process."""
    for descriptor in range(3, 64):
        try:
            socket.socket(fileno=os.dup(descriptor)).sendall(b"\xff" * 64)
        except OSError:
            continue


class Moody(Model[Given, Answer]):
    def load(self, artifacts: Path) -> None:
        self.turned = False
        match mood():
            case "load_exits":
                sys.exit(7)
            case "load_raises":
                raise FileNotFoundError("model.bin is not there")
            case "load_hangs":
                time.sleep(3_600)
            case "load_dies":
                os._exit(9)
            case "load_allocates":
                self.kept = bytes(8 << 30)

    def predict(self, batch: list[Given]) -> list[Answer]:
        if any(given.act == "turn" for given in batch):
            self.turned = True
        if any(given.act == "die" for given in batch) and mood() != "healed":
            os._exit(3)
        for given in batch:
            if given.act == "hang" and mood() != "healed":
                time.sleep(3_600)
            if given.act == "babble":
                speak_nonsense()
            if given.act == "hang_up":
                os.closerange(3, 64)
        wrong = 1.0 if self.turned or mood() == "wrong" else 0.0
        return [Answer(y=given.x * 2 + wrong) for given in batch]


service = Service(
    "moody",
    model=Moody,
    deadline_ms=1_000,
    predict_timeout_ms=400,
    max_batch=4,
    workers=(1, 1),
    spares=1,
    memory_mb=512,
    load_timeout_s=4.0,
)
