"""The ledger's fence: from when on no ledger accepts the rows of an owner."""

from datetime import timedelta

FENCE = timedelta(hours=24)  # after the last renewal of a claim no ledger accepts its owner's rows
