#!/usr/bin/env python3
"""A first base backup of a MariaDB server, against `mariadb-backup --stream=mbstream | lz4`.

PITR_BENCH_BASE_GB (1) sets the size of the tables.
"""

import sys

from common import Report, Scratch, bytes_below, env_number, measured, rounds
from mysql import LOADING, MARIADB, PASSWORD, USER, Pitr, Server, archiving, remove, shell


def main():
    scratch = Scratch()
    server = Server(scratch, "source", MARIADB, options=LOADING).start().make_account()
    server.make_tables(env_number("PITR_BENCH_BASE_GB", 1.0))
    # What was changed in memory is written now, and not in the first round.
    server.stop()
    server.start()
    size = sum(f.stat().st_size for f in server.data.rglob("*.ibd"))

    ours, theirs, our_bytes, their_bytes = [], [], [], []

    def run_ours(number):
        pitr = Pitr(scratch, server, f"store_{number}")
        pitr.must("init")
        with archiving(pitr):
            ours.append(pitr.measured("backup").wall_s)
        our_bytes.append(sum(bytes_below(pitr.store / "main" / part) for part in ("base", "pack")))
        remove(pitr.store)

    def run_theirs(number):
        target = scratch.dir(f"mbstream_{number}")
        command = shell(f"{MARIADB.program('mariadb-backup')} --no-defaults --backup --stream=mbstream --user={USER}"
                        f" --password={PASSWORD} --socket={server.socket} --datadir={server.data} --target-dir={target}"
                        f" | lz4 -q > {target}/base.lz4")
        theirs.append(measured(command, scratch.path / "mariadb-backup.log", drop_rights=True).wall_s)
        their_bytes.append(bytes_below(target))
        remove(target)

    for number, we_begin in rounds():
        for run in (run_ours, run_theirs) if we_begin else (run_theirs, run_ours):
            run(number)

    report = Report(f"Base backup of a MariaDB {MARIADB.version()} server with {size / 1e9:.2f} GB of tables")
    name = "mariadb-backup --stream=mbstream | lz4"
    report.add("wall", ours, theirs, "s", 1.0, peer_name=name)
    report.notes.append(f"bytes stored: pitr {our_bytes[0] / 1e6:.0f} MB, mariadb-backup and lz4 {their_bytes[0] / 1e6:.0f} MB")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
