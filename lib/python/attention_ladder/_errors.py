"""The exceptions: one class for each kind of mistake that the C++ library reports.

Every class is a `RuntimeError`, as torch's own checks raise, and also the built-in that Python users
expect for its kind, so that ``except ValueError`` and ``except RuntimeError`` both work.
"""


class Error(RuntimeError):
    """Base of every error of attention_ladder. Its text holds the values at fault."""


class BadShape(Error, ValueError):
    """Sizes, ranks or strides that do not fit together."""


class BadDtype(Error, TypeError):
    """An element type, or an object, that is not taken here."""


class BadOption(Error, ValueError):
    """An option outside its domain; an unknown tier."""


class BadDevice(Error, ValueError):
    """Tensors on different devices, or on one that is not taken."""


class Unsupported(Error, NotImplementedError):
    """Well-formed, but beyond the limits of the tier that was asked for."""


class Unavailable(Error):
    """The tier cannot run on this machine."""


class NoMemory(Error, MemoryError):
    """An allocation failed."""


class DeviceError(Error):
    """The GPU runtime reported an error."""


# Read by the extension module: the C++ error code's name -> the class to raise.
by_code: dict[str, type[Error]] = {
    "bad_shape": BadShape,
    "bad_dtype": BadDtype,
    "bad_option": BadOption,
    "bad_device": BadDevice,
    "bad_file": Error,
    "unsupported": Unsupported,
    "unavailable": Unavailable,
    "no_memory": NoMemory,
    "device_error": DeviceError,
}
