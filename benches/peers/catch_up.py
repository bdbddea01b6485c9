#!/usr/bin/env python3
"""Catch-up streaming of pgbench WAL into a local store, against
`pg_receivewal --compress=lz4`: wall time, processor seconds per GB, peak memory.

PITR_BENCH_WAL_GB (3) sets the amount. Every contestant of every round has a slot that
was created before the first byte, so that all stream the same range.
"""

import sys

from common import BIN, ROUNDS, Cluster, Pitr, Report, Scratch, env_number, lsn, measured, rounds


def main():
    scratch = Scratch()
    cluster = Cluster(scratch, "source", fsync="off").start()
    cluster.make_tables(50)
    for number in range(ROUNDS):
        for who in ("ours", "theirs"):
            cluster.sql(f"select pg_create_physical_replication_slot('{who}_{number}', true)")
    begin = cluster.sql("select min(restart_lsn) from pg_replication_slots")
    cluster.write_wal(int(env_number("PITR_BENCH_WAL_GB", 3.0) * 1e9))
    cluster.sql("select pg_switch_wal(); checkpoint")
    end = cluster.current_lsn()
    gigabytes = (lsn(end) - lsn(begin)) / 1e9

    ours, theirs = [], []

    def run_ours(number):
        pitr = Pitr(scratch, cluster, f"store_{number}")
        pitr.must("init")
        ours.append(pitr.measured("archive", "--slot", f"ours_{number}", "--no-backup", "--until", end))

    def run_theirs(number):
        target = scratch.dir(f"receivewal_{number}")
        command = [BIN / "pg_receivewal", "-D", target, "-S", f"theirs_{number}", "--no-loop", "--compress=lz4",
                   "--endpos", end, "-d", cluster.url()]
        theirs.append(measured(command, scratch.path / "receivewal.log", drop_rights=True))

    for number, we_begin in rounds():
        for run in (run_ours, run_theirs) if we_begin else (run_theirs, run_ours):
            run(number)

    report = Report(f"Catch-up streaming of {gigabytes:.2f} GB of pgbench WAL")
    name = "pg_receivewal --compress=lz4"
    report.add("wall", [c.wall_s for c in ours], [c.wall_s for c in theirs], "s", 0.8, peer_name=name)
    report.add("processor seconds per GB", [c.cpu_s / gigabytes for c in ours], [c.cpu_s / gigabytes for c in theirs],
               "s/GB", 1.0, peer_name=name)
    report.add("peak memory", [c.peak_mib for c in ours], [], "MiB", 64)
    report.notes.append(f"pg_receivewal's peak memory: {max(c.peak_mib for c in theirs):.0f} MiB")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
