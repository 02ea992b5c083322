"""The one error that users can mend themselves."""


class InputError(ValueError):
    """Something given by the user cannot be used. The message is one line: what was given, what is allowed, what to do.

    The command line prints it to stderr and exits with 2.
    """
