"""Exceptions that the parts of the engine raise to each other; users never see them."""


class Fenced(Exception):
    """A conditional write changed no row: the claim, the status or the fence no longer allow it."""


class Lost(Exception):
    """The claim is no longer ours."""


class FollowJournal(Exception):
    """This process cannot answer the callers of a saga; the journal will."""


class Stopped(Exception):
    """The saga must be undone although no step has failed."""


class Joined(Exception):
    """The saga exists already: its key, or an earlier attempt, started it."""


class OutOfReach(Exception):
    """A database did not answer within the time that this process waits for it."""
