"""The exceptions: one class for each status of the library, ZERO1_ERR_IO is IOError, and so on.

Each is a zero1.Error and, where Python has an exception for the same thing, that too. The message is the
library's text of what is wrong."""

import builtins


class Error(Exception):
    """A call of the library failed. `status` is its number in zero1/status.h."""

    status: int = 0


class InvalidError(Error, builtins.ValueError):
    """Invalid argument: the text names it."""

    status = -1


class MemoryError(Error, builtins.MemoryError):
    """Out of memory."""

    status = -2


class MismatchError(Error):
    """The ranks disagree, or a checkpoint and an optimizer do."""

    status = -3


class StateError(Error):
    """The call does not fit the state of the handle; also: it is closed."""

    status = -4


class UnsupportedError(Error):
    """Not supported by this build or configuration."""

    status = -5


class VersionError(Error):
    """Package and library are of different versions, or a checkpoint is of a newer one."""

    status = -6


class TimeoutError(Error, builtins.TimeoutError):
    """A peer made no progress within the timeout."""

    status = -7


class PeerError(Error):
    """A peer died or closed its end."""

    status = -8


class AbortedError(Error):
    """A peer aborted."""

    status = -9


class CommError(Error):
    """The communication backend failed."""

    status = -10


class DeviceError(Error):
    """The device failed."""

    status = -11


class NoDeviceError(Error):
    """There is no such device."""

    status = -12


class IOError(Error, builtins.OSError):
    """Input or output failed: the text names the file."""

    status = -13


class DivergedError(Error):
    """The replicas of the parameters differ. `rank` is one that differs from the most."""

    status = -14
    rank: int = -1


class SpentError(Error):
    """An earlier failure left this handle unusable."""

    status = -15


class NotFoundError(Error, builtins.FileNotFoundError):
    """There is no such checkpoint."""

    status = -16


class CorruptError(Error):
    """A checkpoint is damaged: the text names the file."""

    status = -17


class LockedError(Error):
    """Another job writes there: the text names it."""

    status = -18


CLASSES: dict[int, type[Error]] = {made.status: made for made in Error.__subclasses__()}


def error_of(status: int, text: str) -> Error:
    """The exception of a status. One that this package does not know is an Error with that status."""
    error = CLASSES.get(status, Error)(text)
    error.status = status
    return error
