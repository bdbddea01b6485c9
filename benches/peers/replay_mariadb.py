#!/usr/bin/env python3
"""Replay of a MariaDB binlog; see replay.py."""

import sys

from mysql import MARIADB
from replay import run

if __name__ == "__main__":
    sys.exit(run(MARIADB, bar=0.15))
