"""What is counted, in words."""


def counted(number: int, what: str) -> str:
    """`what` is the word for one of them."""
    return f"{number} {what}{'' if number == 1 else 's'}"
