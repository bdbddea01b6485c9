#!/usr/bin/env python3
"""Commits per second with the archive as the only semi-synchronous replica, 8 clients,
against the same server without semi-synchronous replication. The server syncs its log and
its binlog at every commit. Both of its wait points are measured: behind the commit, its
default, and before it. Clients and archive reach it by its Unix socket, as what stands on
the same machine does.

A round is four runs for each, the second and third by the same of the two, so that what
drifts weighs on both alike. PITR_BENCH_SECONDS (10) is the length of one run.
"""

import sys

from common import Report, Scratch, env_number, rounds, until
from mysql import MARIADB, Pitr, Server, archiving

DURABLE = ["--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1"]
# A wait that runs out shows as a count, below, and not as a faster server.
SEMI_SYNC = ["--rpl-semi-sync-master-timeout=60000"]
WAIT_POINTS = ["AFTER_COMMIT", "AFTER_SYNC"]


def main():
    scratch = Scratch()
    seconds = env_number("PITR_BENCH_SECONDS", 10)
    server = Server(scratch, "source", MARIADB, options=DURABLE + SEMI_SYNC).start().make_account()
    server.make_tables(0.3)
    pitr = Pitr(scratch, server, "store")
    pitr.env["PITR_SOURCE"] = server.url_by_socket()
    pitr.must("init")
    pitr.must("archive", "--no-backup", "--exit-when-caught-up")

    def status(name):
        return server.sql(f"show global status like 'Rpl_semi_sync_master_{name}'").split("\t")[1]

    def alone():
        return server.write_only(f"--time={seconds}")

    def with_archive(wait_point):
        server.sql(f"set global rpl_semi_sync_master_wait_point = '{wait_point}'")
        server.sql("set global rpl_semi_sync_master_enabled = 1")
        with archiving(pitr):
            until("the archive to be the semi-synchronous replica", lambda: status("clients") == "1")
            # The server waits again once the replica has what was written before.
            until("the server to wait for it",
                  lambda: server.sql("create or replace table sbtest.one (id int)") == "" and status("status") == "ON")
            before = int(status("no_tx"))
            rate = server.write_only(f"--time={seconds}")
            unacknowledged = int(status("no_tx")) - before
            # Else the archive's end would be waited for.
            server.sql("set global rpl_semi_sync_master_enabled = 0")
        if unacknowledged:
            sys.exit(f"error: {unacknowledged} commits were not acknowledged")
        return rate

    ours, theirs = ({wait_point: [] for wait_point in WAIT_POINTS} for _ in range(2))
    for _, we_begin in rounds():
        for wait_point in WAIT_POINTS:
            rates = [with_archive(wait_point) if ours_now == we_begin else alone()
                     for ours_now in (True, False, False, True)]
            outer, inner = (rates[0] + rates[3]) / 2, (rates[1] + rates[2]) / 2
            ours[wait_point].append(outer if we_begin else inner)
            theirs[wait_point].append(inner if we_begin else outer)

    report = Report(f"Commits with the archive as the semi-synchronous replica of MariaDB {MARIADB.version()}, 8 clients")
    for wait_point in WAIT_POINTS:
        report.add(f"commits per second, {wait_point}", ours[wait_point], theirs[wait_point], "/s", 0.7,
                   more_is_better=True, peer_name="without semi-sync")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
