#!/usr/bin/env python3
"""Base backups: the first one, and a second one after random single-row updates,
against `pg_basebackup -Ft --compress=client-lz4` and pgBackRest's incremental; then
laying the base out again against `pgbackrest restore`.

PITR_BENCH_SCALE (100) is pgbench's scale, about 15 MB each; PITR_BENCH_UPDATES (5000).
"""

import signal
import sys
from contextlib import contextmanager

from common import BIN, Cluster, Pitr, Report, Scratch, bytes_below, env_number, measured, rounds, until
from pgbackrest import PgBackRest, remove

UPDATE = "\\set aid random(1, 100000 * :scale)\nupdate pgbench_accounts set abalance = abalance + 1 where aid = :aid;\n"


@contextmanager
def archiving(pitr, cluster):
    """The archiver beside a backup, as in life: a base counts once the log over which
    it becomes consistent is archived, and `pitr backup` waits for that."""
    slot = f"bench_{pitr.store.name}"
    archiver = pitr.start("archive", "--slot", slot, "--no-backup")
    until("the archive to follow",
          lambda: cluster.sql("select count(*) from pg_stat_replication where state = 'streaming'") == "1")
    yield
    archiver.send_signal(signal.SIGINT)
    if archiver.wait(60) != 0:
        sys.exit(f"error: pitr archive ended with {archiver.returncode}; see {pitr.log}")
    until("the archive to be gone", lambda: cluster.sql("select count(*) from pg_stat_replication") == "0")


def stored(pitr):
    """Bytes of a store that belong to base backups."""
    return sum(bytes_below(pitr.store / "main" / part) for part in ("base", "pack"))


def main():
    scratch = Scratch()
    scale = env_number("PITR_BENCH_SCALE", 100)
    updates = env_number("PITR_BENCH_UPDATES", 5000)
    cluster = Cluster(scratch, "source")
    backrest = PgBackRest(scratch, cluster)
    # No archive_command here: with one, pg_basebackup without WAL waits for it.
    cluster.start()
    backrest.must("stanza-create")
    cluster.make_tables(scale)
    size = int(cluster.sql("select sum(pg_database_size(oid)) from pg_database"))
    script = scratch.path / "update.sql"
    script.write_text(UPDATE)

    def basebackup(number, what):
        target = scratch.dir(f"basebackup_{what}_{number}")
        cost = measured(
            [BIN / "pg_basebackup", "-Ft", "--compress=client-lz4", "-X", "none", "--checkpoint=fast", "-D", target,
             "-d", cluster.url()],
            scratch.path / "basebackup.log",
            drop_rights=True,
        )
        kept = bytes_below(target)
        remove(target)
        return cost.wall_s, kept

    first, first_peer, first_bytes = [], [], []
    for number, we_begin in rounds():
        def ours():
            pitr = Pitr(scratch, cluster, f"store_{number}")
            pitr.must("init")
            cluster.sql("checkpoint")
            with archiving(pitr, cluster):
                first.append(pitr.measured("backup").wall_s)
            first_bytes.append(stored(pitr))
            # As the peer's: what stays would leave it less memory for files.
            remove(pitr.store)

        def theirs():
            cluster.sql("checkpoint")
            first_peer.append(basebackup(number, "first")[0])

        for run in (ours, theirs) if we_begin else (theirs, ours):
            run()
    cluster.sql("checkpoint")
    full = backrest.measured("--type=full", "--no-archive-check", "backup").wall_s
    full_bytes = bytes_below(backrest.repository / "backup")

    second, second_peer, second_share, incr, incr_share = [], [], [], [], []
    for number, we_begin in rounds():
        # A first backup of its own for each round: later ones would be measured against
        # what all rounds before have changed.
        pitr = Pitr(scratch, cluster, f"second_{number}")
        pitr.must("init")
        with archiving(pitr, cluster):
            pitr.must("backup")
        cluster.pgbench("-n", "-f", str(script), "-s", str(scale), "-t", str(updates))
        cluster.sql("checkpoint")

        def ours():
            before = stored(pitr)
            with archiving(pitr, cluster):
                second.append(pitr.measured("backup").wall_s)
            second_share.append(100 * (stored(pitr) - before) / before)

        def theirs():
            second_peer.append(basebackup(number, "second")[0])

        for run in (ours, theirs) if we_begin else (theirs, ours):
            run()
        before = bytes_below(backrest.repository / "backup")
        incr.append(backrest.measured("--type=incr", "--no-archive-check", "backup").wall_s)
        incr_share.append(100 * (bytes_below(backrest.repository / "backup") - before) / full_bytes)

    # The newest base of each, on the same data, into an empty directory. pitr needs
    # the log over which the base becomes consistent.
    pitr.must("archive", "--slot", f"bench_{pitr.store.name}", "--exit-when-caught-up")
    lay_out, lay_out_peer = [], []
    for number, we_begin in rounds():
        def ours():
            to = scratch.path / f"ours_{number}"
            cost = pitr.measured("restore", "--target", "latest", "--no-recover", "--to", to, "--bin-dir", BIN,
                                 *pitr.os_user())
            lay_out.append(cost.wall_s)
            remove(to)

        def theirs():
            to = scratch.dir(f"theirs_{number}")
            cost = backrest.measured(f"--pg1-path={to}", "--type=none", "restore")
            lay_out_peer.append(cost.wall_s)
            remove(to)

        for run in (ours, theirs) if we_begin else (theirs, ours):
            run()

    report = Report(f"Base backups of {size / 1e9:.2f} GB, the second after {updates} random single-row updates")
    name = "pg_basebackup -Ft --compress=client-lz4"
    report.add("first backup, wall", first, first_peer, "s", 1.0, peer_name=name)
    report.add("second backup, wall", second, second_peer, "s", 1.0, peer_name=name)
    report.add("second backup, share of the first's bytes", second_share, [], "%", 15)
    report.add("base restore, wall", lay_out, lay_out_peer, "s", 0.8, peer_name="pgbackrest restore, process-max=2")
    report.notes += [
        backrest.note(),
        f"pgBackRest: full {full:.2f} s, incremental {', '.join(f'{v:.2f}' for v in incr)} s "
        f"and {', '.join(f'{v:.1f}' for v in incr_share)} % of the full one's bytes",
        f"bytes stored for the first backup: pitr {first_bytes[0] / 1e6:.0f} MB, pgBackRest {full_bytes / 1e6:.0f} MB",
    ]
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
