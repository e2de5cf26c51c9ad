"""The error that the user can mend."""


class UserError(Exception):
    """Something that the user can mend: an input, a setting, a service that does not answer.

    The command line prints the message on one line and exits with 2. Any other exception is a
    defect of Maitre: it keeps its traceback. A message says what is wrong, where, what was
    expected, what was found and what to do.
    """
