"""What can go wrong with a run."""

from __future__ import annotations

#: The step went on without the request, or its server was started again: the work is done by somebody once more.
_SUPERSEDED = ("stale", "not_yet", "wrong_epoch", "not_joined", "unavailable")


class Error(RuntimeError):
    """A run cannot go on; the text says what, where and what to do. `code` is the server's word for the kind."""

    def __init__(self, message: str, code: str = "failed") -> None:
        super().__init__(message)
        self.code = code


class InvalidError(Error, ValueError):
    """What was asked for is none: a bad option, name, address or shape."""

    def __init__(self, message: str, code: str = "invalid") -> None:
        super().__init__(message, code)


class OtherRunError(InvalidError):
    """The servers are in the middle of another run, or this process would compute another result than the others."""


class SupersededError(Error):
    """A piece of work is nobody's any more. Never seen outside the package, but in reads between steps."""


def of_status(code: str, message: str) -> Error:
    """The error for the code and the words of a server or of the client."""
    if code in _SUPERSEDED:
        return SupersededError(message, code)
    if code == "wrong_run":
        return OtherRunError(message, code)
    return InvalidError(message, code) if code == "invalid" else Error(message, code)
