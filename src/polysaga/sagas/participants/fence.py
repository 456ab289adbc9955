"""The ledger's fence: the moment after which no ledger accepts an owner's rows."""

from datetime import timedelta

FENCE = timedelta(hours=24)  # after the last renewal of a claim no ledger accepts its owner's rows
