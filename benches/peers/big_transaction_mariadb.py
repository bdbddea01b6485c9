#!/usr/bin/env python3
"""Peak memory of the archiver through one transaction of a gibibyte; mariadb-binlog's beside it.

PITR_BENCH_TRANSACTION_GIB (1) sets its size.
"""

import sys

from common import Report, Scratch, env_number, measured, rounds
from mysql import LOADING, MARIADB, Pitr, Server, remove


def main():
    scratch = Scratch()
    server = Server(scratch, "source", MARIADB, options=LOADING).start().make_account()
    rows = int(env_number("PITR_BENCH_TRANSACTION_GIB", 1.0) * (1 << 20))
    # A kilobyte a row: row events of 8 KB, as many as that gives.
    server.sql(f"""use sbtest; create table big (id int primary key, v varchar(1024)) character set latin1; flush binary logs;
        insert into big select seq, repeat(md5(seq), 32) from seq_1_to_{rows}; flush binary logs""")
    largest = max(size for _, size in server.logs())

    ours, theirs = [], []

    def run_ours(number):
        pitr = Pitr(scratch, server, f"store_{number}")
        pitr.must("init")
        ours.append(pitr.measured("archive", "--no-backup", "--exit-when-caught-up"))
        remove(pitr.store)

    def run_theirs(number):
        target = scratch.dir(f"raw_{number}")
        command = [MARIADB.program("mariadb-binlog"), *server.remote(), "--read-from-remote-server", "--raw",
                   f"--result-file={target}/", "--to-last-log", server.logs()[0][0]]
        theirs.append(measured(command, scratch.path / "mariadb-binlog.log"))
        remove(target)

    for number, we_begin in rounds():
        for run in (run_ours, run_theirs) if we_begin else (run_theirs, run_ours):
            run(number)

    report = Report(f"One transaction of {largest / (1 << 30):.2f} GiB")
    report.add("peak memory", [c.peak_mib for c in ours], [], "MiB", 96)
    report.notes.append(f"wall: pitr {', '.join(f'{c.wall_s:.1f}' for c in ours)} s; "
                        f"mariadb-binlog --raw {', '.join(f'{c.wall_s:.1f}' for c in theirs)} s, "
                        f"{max(c.peak_mib for c in theirs):.0f} MiB")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
