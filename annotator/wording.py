"""Numbers in sentences, for whoever talks to people."""


def count(number: int, noun: str) -> str:
    """`1 photo`, `2,000 photos`, `3 classes`."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def are(number: int, noun: str) -> str:
    """`1 photo is`, `2,000 photos are`."""
    return f"{count(number, noun)} {'is' if number == 1 else 'are'}"
