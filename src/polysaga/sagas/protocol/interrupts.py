"""What the parts of the engine tell each other by raising; users never see these."""


class Fenced(Exception):
    """A conditional write changed no row: the claim, the status or the fence no longer allow it."""


class Lost(Exception):
    """The claim is no longer ours; whoever waits must follow the journal."""


class Stopped(Exception):
    """The saga is to be undone although no step has failed."""


class Joined(Exception):
    """The saga exists already: its key, or an earlier attempt, started it."""


class OutOfReach(Exception):
    """A database did not answer for as long as this process waits for it."""
