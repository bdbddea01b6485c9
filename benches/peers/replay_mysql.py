#!/usr/bin/env python3
"""Replay of a MySQL binlog; see replay.py."""

import sys

from mysql import MYSQL
from replay import run

if __name__ == "__main__":
    sys.exit(run(MYSQL, bar=0.2))
