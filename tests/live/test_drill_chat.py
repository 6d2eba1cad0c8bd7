"""Two drills on the chat example: an upstream that dies, and one that obeys whatever it reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serving import ROOT


@pytest.mark.timeout(150)
def test_two_chat_drills_hold_on_the_example(tmp_path: Path):
    done = subprocess.run(
        [
            sys.executable, "-m", "nightproof", "drill", str(ROOT / "examples" / "support-chat"), "--json",
            "--only", "upstream_obeys", "--only", "upstream_refused", "--only", "slow_model",
        ],
        capture_output=True, text=True, timeout=140, env={**os.environ, "TMPDIR": str(tmp_path)}, check=False,
    )  # fmt: skip

    told: dict[str, Any] = json.loads(done.stdout)
    results = {one["name"]: one for one in told["results"]}
    words = {name: (one["word"], one["why"]) for name, one in results.items()}
    assert words["upstream_obeys"] == words["upstream_refused"] == ("held", ""), words
    assert words["slow_model"][0] == "not applicable"
    assert done.returncode == 0
    harm = results["upstream_refused"]["harm"]
    assert harm["degraded"] > 0
    assert (harm["torn"], harm["hung"], harm["wrong"]) == (0, 0, 0)
    assert list(tmp_path.glob("nightproof-drill-*")) == []
