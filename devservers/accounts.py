"""Under which account a server runs, and that it does not outlive its parent.

PostgreSQL refuses to run as root, and so do we for MariaDB, but containers and CI machines are root.
`setpriv` (part of util-linux, on every Debian) changes the account and asks the kernel for a signal
when the parent dies. Both must happen in one place: a change of account clears that request.
"""

import os
import pwd
import shutil
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from devservers.server import ServerUnavailable


@dataclass(frozen=True)
class Account:
    """A user of the system, under whom servers run that refuse to run as root."""

    uid: int
    gid: int

    def owns(self, path: Path) -> None:
        os.chown(path, self.uid, self.gid)


def server_account(preferred: str | None) -> Account | None:
    """The account for a server; None means the current one.

    `preferred` counts when root asks; a server that does not mind root has none.
    """
    if preferred is None or os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(preferred)
    except KeyError:
        entry = pwd.getpwnam("nobody")
    return Account(entry.pw_uid, entry.pw_gid)


def launched(
    command: list[str], *, account: Account | None, needs: Iterable[Path] = (), death_signal: signal.Signals
) -> list[str]:
    """`command` such that it runs as `account` and gets `death_signal` when its parent thread ends.

    `needs` are paths the account must be able to enter. Without `setpriv` (not Linux) the command is
    returned as it is; as root that raises `ServerUnavailable`.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if account is None:
            return command
        raise ServerUnavailable(
            Path(command[0]).name,
            reason="it must not run as root, and setpriv is missing to run it as another user",
            remedy="Run as an ordinary user, or: apt-get install util-linux",
        )
    options = [f"--pdeathsig={death_signal.name.removeprefix('SIG')}"]
    if account is not None:
        options += [f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"]
        if not all(_open_to_everybody(path) for path in needs):
            options += _PASS_CLOSED_FOLDERS
    return [setpriv, *options, "--", *command]


# A checkout below /root is closed to other accounts. Rather than open the user's folders, let the server
# pass them. no_setuid_fixup makes access(2) honour the capability too; PostgreSQL asks it about itself.
_PASS_CLOSED_FOLDERS = [
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    "--securebits=+no_setuid_fixup",
]


def _open_to_everybody(path: Path) -> bool:
    folders = [*path.absolute().parents, *path.resolve().parents]
    return all(folder.stat().st_mode & 0o001 for folder in folders)
