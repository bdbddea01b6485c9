#!/usr/bin/env python3
"""Runs every side-by-side benchmark, or those named: `run.py catch_up synchronous`.

Exits 1 when a bar was missed.
"""

import platform
import subprocess
import sys
from pathlib import Path

ALL = [
    "catch_up", "base_backup", "restore_to_time", "synchronous", "commit_age", "bucket", "elsewhere",
    "plan",
    "catch_up_mariadb", "big_transaction_mariadb", "base_backup_mariadb", "replay_mariadb", "replay_mysql",
    "semi_sync_mariadb",
]


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main():
    names = sys.argv[1:] or ALL
    unknown = [name for name in names if name not in ALL]
    if unknown:
        sys.exit(f"usage: run.py [{' | '.join(ALL)}]...")
    here = Path(__file__).resolve().parent
    import os

    from common import BIN

    version = subprocess.run([BIN / "postgres", "--version"], capture_output=True, text=True).stdout.strip()
    print(f"{version}; {os.cpu_count()} x {processor()}; {platform.release()}")
    missed = [name for name in names if subprocess.run([sys.executable, here / f"{name}.py"]).returncode != 0]
    if missed:
        print(f"\nbars missed or not measured: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
