"""The ledger's fence: the moment after which no ledger accepts an owner's rows."""

from datetime import timedelta

FENCE = timedelta(hours=24)  # after the last renewal of a claim no ledger accepts its owner's rows
LET_A_TIME_SERVICE_KEEP_BOTH = "let a time service keep both"  # of a process and a database whose clocks differ
