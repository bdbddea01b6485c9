"""pgBackRest as a contestant: its configuration and its commands.

Debian 12 has version 2.45, which knows no block incremental (`repo-block`, since
2.46): its incremental backups copy whole changed files. The reports say so.
"""

from pathlib import Path

from common import client_env, measured, must


class PgBackRest:
    """A stanza `bench` with a repository of its own."""

    def __init__(self, scratch, cluster, name="pgbackrest"):
        self.scratch = scratch
        self.dir = scratch.dir(name)
        self.repository = self.dir / "repo"
        self.config = self.dir / "pgbackrest.conf"
        self.log = self.dir / "output.log"
        self.log.touch()
        for part in ("spool", "log", "lock", "repo"):
            (self.dir / part).mkdir()
            scratch.give(self.dir / part)
        block = "repo1-bundle=y\nrepo1-block=y\n" if self.has_block_incremental() else ""
        self.config.write_text(
            f"[global]\nrepo1-path={self.repository}\nspool-path={self.dir}/spool\nlog-path={self.dir}/log\n"
            f"lock-path={self.dir}/lock\nprocess-max=2\ncompress-type=lz4\nstart-fast=y\narchive-async=y\n"
            f"log-level-console=warn\nlog-level-file=off\n{block}"
            f"[bench]\npg1-path={cluster.data}\npg1-port={cluster.port}\npg1-socket-path={cluster.sockets}\n"
            "pg1-user=postgres\n"
        )

    @staticmethod
    def version():
        return must(["pgbackrest", "version"]).split()[-1]

    @classmethod
    def has_block_incremental(cls):
        major, minor = cls.version().split(".")[:2]
        return (int(major), int(minor)) >= (2, 46)

    def note(self):
        if self.has_block_incremental():
            return f"pgBackRest {self.version()} with bundles and block incremental"
        return (f"pgBackRest {self.version()}, the distribution's: without block incremental (that came with 2.46), "
                "so an incremental backup copies every changed file whole")

    def archive_command(self):
        return f"pgbackrest --config={self.config} --stanza=bench archive-push %p"

    def words(self, *words):
        return ["pgbackrest", f"--config={self.config}", "--stanza=bench", *words]

    def must(self, *words):
        return must(self.words(*words), drop_rights=True)

    def measured(self, *words):
        return measured(self.words(*words), self.log, drop_rights=True)


def remove(path: Path):
    """Deletes a directory that a server's user owns."""
    must(["rm", "-rf", path], env=client_env())
