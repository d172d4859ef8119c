"""What a call raises, as values that ranks compare."""

from mpisign.errors import MpisignError


def told(work):
    """The type and text of what work raises."""
    try:
        work()
    except MpisignError as error:
        return type(error), str(error)
    return None, ""
