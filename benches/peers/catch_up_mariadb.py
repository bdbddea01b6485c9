#!/usr/bin/env python3
"""Catch-up streaming of MariaDB's binlog (row events of small transactions) into a local
store, against `mariadb-binlog --read-from-remote-server --raw`: wall time, bytes stored,
processor seconds per GB, peak memory.

PITR_BENCH_BINLOG_GB (1.5) sets the amount.
"""

import sys

from common import Report, Scratch, bytes_below, env_number, measured, rounds
from mysql import LOADING, MARIADB, Pitr, Server, remove


def main():
    scratch = Scratch()
    server = Server(scratch, "source", MARIADB, options=LOADING).start().make_account()
    server.make_tables(0.2)
    server.write_log(int(env_number("PITR_BENCH_BINLOG_GB", 1.5) * 1e9))
    server.sql("flush binary logs")
    gigabytes = server.log_bytes() / 1e9

    ours, theirs, our_bytes, their_bytes = [], [], [], []

    def run_ours(number):
        pitr = Pitr(scratch, server, f"store_{number}")
        pitr.must("init")
        ours.append(pitr.measured("archive", "--no-backup", "--exit-when-caught-up"))
        our_bytes.append(bytes_below(pitr.store / "main" / "log"))
        remove(pitr.store)

    def run_theirs(number):
        target = scratch.dir(f"raw_{number}")
        first = server.logs()[0][0]
        command = [MARIADB.program("mariadb-binlog"), *server.remote(), "--read-from-remote-server", "--raw",
                   f"--result-file={target}/", "--to-last-log", first]
        theirs.append(measured(command, scratch.path / "mariadb-binlog.log"))
        their_bytes.append(bytes_below(target))
        remove(target)

    for number, we_begin in rounds():
        for run in (run_ours, run_theirs) if we_begin else (run_theirs, run_ours):
            run(number)

    report = Report(f"Catch-up streaming of {gigabytes:.2f} GB of MariaDB {MARIADB.version()} binlog")
    name = "mariadb-binlog --read-from-remote-server --raw"
    report.add("wall", [c.wall_s for c in ours], [c.wall_s for c in theirs], "s", 0.6, peer_name=name)
    report.add("bytes stored", [b / 1e6 for b in our_bytes], [b / 1e6 for b in their_bytes], "MB", 0.5, peer_name=name)
    report.add("peak memory", [c.peak_mib for c in ours], [], "MiB", 96)
    report.notes.append(f"mariadb-binlog's peak memory: {max(c.peak_mib for c in theirs):.0f} MiB")
    report.notes.append(f"processor seconds per GB: pitr {min(c.cpu_s for c in ours) / gigabytes:.2f}, "
                        f"mariadb-binlog {min(c.cpu_s for c in theirs) / gigabytes:.2f}")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
