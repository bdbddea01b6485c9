#!/usr/bin/env python3
"""One archive restored from where it lies: a bucket (also with 30 ms more for each answer), and an encrypted directory, against a
directory that is not encrypted; and catching up into the encrypted one.

PITR_BENCH_SCALE (50) sets the base, PITR_BENCH_WAL_GB (1) the WAL, PITR_BENCH_SERVICE the service (bucket_server.py): Garage, for s3s-fs cannot give the
end of an object that is shorter than what is asked for.
"""

import shutil
import sys

from bucket_server import KEYS, Bucket, Relay
from common import BIN, Cluster, Pitr, Report, Scratch, env_number, lsn, rounds

LATENCY_S = 0.03


def main():
    scratch = Scratch()
    bucket = Bucket(scratch)
    slow = Relay(bucket.port, LATENCY_S)
    cluster = Cluster(scratch, "source").start()
    cluster.make_tables(env_number("PITR_BENCH_SCALE", 50))
    plain, sealed = Pitr(scratch, cluster, "plain"), Pitr(scratch, cluster, "sealed")
    plain.must("key", "new", "--to", scratch.path)
    sealed.env.update(PITR_KEY_FILE=scratch.path / "archiver.key", PITR_RESTORE_KEY=scratch.path / "restore.key")
    both = {"plain": plain, "sealed": sealed}
    for who, pitr in both.items():
        pitr.must("init")
        pitr.must("archive", "--slot", who, "--exit-when-caught-up")
    begin = cluster.current_lsn()
    cluster.write_wal(int(env_number("PITR_BENCH_WAL_GB", 1.0) * 1e9))
    gigabytes = (lsn(cluster.current_lsn()) - lsn(begin)) / 1e9
    caught_up = {who: [pitr.measured("archive", "--slot", who, "--exit-when-caught-up", "--no-backup").wall_s]
                 for who, pitr in both.items()}
    cluster.stop()
    copied = Pitr(scratch, cluster, "copied")
    copied.env.update(KEYS)
    copied.must("copy", plain.store, bucket.url("copied"))

    remote, far = Pitr(scratch, cluster, "remote"), Pitr(scratch, cluster, "far")
    remote.env.update(KEYS, PITR_STORE=bucket.url("copied"))
    far.env.update(KEYS, PITR_STORE=bucket.url("copied", slow.port))
    contestants = {"plain": plain, "sealed": sealed, "bucket": remote, "far": far}
    times = {who: [] for who in contestants}
    memory = dict.fromkeys(contestants, 0)
    for number, forwards in rounds():
        for who in contestants if forwards else reversed(contestants):
            to = scratch.path / f"{who}_{number}"
            cost = contestants[who].measured("restore", "--target", "latest", "--to", to, "--bin-dir", BIN, *plain.os_user())
            times[who].append(cost.wall_s)
            memory[who] = max(memory[who], cost.peak_mib)
            shutil.rmtree(to)
    bucket.stop()

    report = Report(f"A restore of a base and {gigabytes:.2f} GB of WAL from elsewhere ({bucket.name})")
    for who, what in (("bucket", "bucket"), ("far", f"bucket, {LATENCY_S * 1000:.0f} ms more"), ("sealed", "encrypted")):
        report.add(f"restore, {what}", times[who], times["plain"], "s", 1.5, peer_name="directory")
    report.add("catch up, encrypted", caught_up["sealed"], caught_up["plain"], "s", 1.5, peer_name="directory")
    report.notes.append("peak memory in MiB: " + ", ".join(f"{who} {mib:.0f}" for who, mib in memory.items()))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
