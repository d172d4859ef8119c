"""Text that comes from files and names, made harmless where it leaves: for a terminal, a table, a batch script."""

FORMULAS = ("=", "+", "-", "@")  # a cell of text that begins so is computed by spreadsheets


def printable(text: object, lines: bool = False) -> str:
    """The text with every character that a terminal might act upon written as Python escapes it; so no escape
    sequence, no reversed writing, and one line. lines: whether line breaks and tabs stay as they are.
    """
    said = str(text)
    if said.isprintable():
        return said
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in said)


def cell(value: object) -> object:
    """A value for a table in a file, such as CSV: numbers as they are, text that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULAS) and not _number(text) else text


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
