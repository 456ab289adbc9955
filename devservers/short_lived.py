"""SecantusDB, run as a program, that forgets abandoned transactions after the seconds in its first argument.

A killed client leaves its transaction open on the server, and everybody who needs the same documents meets a
write conflict until the server gives it up: after 60 seconds by MongoDB's default, which SecantusDB follows
without an option to change it. `mongod` is started with the parameter `transactionLifetimeLimitSeconds`.
"""

import sys

from secantus import server  # type: ignore[import-untyped]
from secantus.cli import main  # type: ignore[import-untyped]

if __name__ == "__main__":
    constructor = server.SecantusDBServer.__init__
    named = "transaction_lifetime_seconds"
    lifetime = float(sys.argv.pop(1))
    if named in (constructor.__kwdefaults__ or {}):
        constructor.__kwdefaults__[named] = lifetime
    else:
        sys.exit(f"this SecantusDB has no {named} to set")
    raise SystemExit(main())
