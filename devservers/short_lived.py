"""SecantusDB, run as a program, that forgets abandoned transactions after the seconds in its first argument.

A killed client leaves its transaction open on the server, and everybody who needs the same documents meets a
write conflict until the server gives it up: after 60 seconds by MongoDB's default, which SecantusDB follows
without an option to change it. `mongod` is started with the parameter `transactionLifetimeLimitSeconds`.
"""

import sys

from secantus import transactions  # type: ignore[import-untyped]
from secantus.cli import main  # type: ignore[import-untyped]

if __name__ == "__main__":
    defaults = transactions.TransactionRegistry.__init__.__kwdefaults__
    assert "lifetime_seconds" in defaults, "this SecantusDB has no lifetime for transactions to set"
    defaults["lifetime_seconds"] = float(sys.argv.pop(1))
    raise SystemExit(main())
