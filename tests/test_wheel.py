"""What is installed is what was written: the wheel holds the data, the pages and the templates."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_wheel_holds_everything_that_runs_away_from_the_checkout(tmp_path):
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("alignment", "ui"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in held, f"{path.name} is not in the wheel"
    for path in (ROOT / "data").iterdir():
        assert f"alignment/data/{path.name}" in held
    assert not [name for name in held if name.startswith(("tests/", "benchmarks/", "notebooks/"))]
