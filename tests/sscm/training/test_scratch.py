"""Temporary folders that go with their processes."""

import signal
import subprocess
import sys
from pathlib import Path

from sscm.training.scratch import scratch_folder


def test_what_a_killed_process_left_goes_and_what_lives_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        "import time; from sscm.training.scratch import scratch_folder; "
        "print(scratch_folder(), flush=True); time.sleep(60)"
    )
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={"TMPDIR": str(tmp_path), "PATH": ""}
        )
        for _ in range(2)
    ]
    try:
        killed, alive = [Path(other.stdout.readline().strip()) for other in others]
        assert killed.is_dir() and alive.is_dir()
        (killed / "file").write_text("left")
        others[0].send_signal(signal.SIGKILL)
        others[0].wait(10)
        first, second = Path(scratch_folder()), Path(scratch_folder())
        assert first != second
        assert first.is_dir() and second.is_dir() and alive.is_dir()
        assert not killed.parent.exists()
    finally:
        for other in others:
            other.kill()
            other.wait(10)
            other.stdout.close()
