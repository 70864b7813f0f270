"""The one type of error that is the user's: printed as one line, while a bug keeps its traceback."""


class UserError(ValueError):
    """Something that the user wrote, or a file that was read, cannot be used.

    The message says where it stands, what came and what is allowed.
    """
