"""200 sentences of everyday subjects, made from templates, of 4 to about 60 words."""

from __future__ import annotations

from itertools import product

SUBJECTS = [
    "The baker",
    "A tired nurse",
    "My neighbour's dog",
    "The old clock maker",
    "Every student",
]
ACTS = [
    "waits for the first train",
    "reads the same letter twice",
    "crosses the frozen river",
    "listens to the rain on the roof",
    "forgets the word for bridge",
]
PLACES = ["in a small harbour town", "behind the school", "before the shop opens", "on Sundays"]
TOPICS = [
    "tides",
    "bees",
    "compilers",
    "earthquakes",
    "violins",
    "bread",
    "glaciers",
    "maps",
    "vaccines",
    "bridges",
]
QUESTIONS = [
    "How do {} work?",
    "Who first described {}?",
    "Explain {} to a child.",
    "A short history of {}.",
    "What goes wrong with {}?",
    "{} are cheaper than people think.",
    "Never buy {} on a Monday.",
    "The museum of {} closes at six.",
]
TAIL = (
    "and nobody in the room, least of all the two brothers who had come so far to hear it, could "
    "say afterwards why the story had seemed so short while it lasted, or so long once it was over"
)


def sentences() -> list[str]:
    """Always the same 200, all different."""
    plain = [f"{s} {a} {p}." for s, a, p in product(SUBJECTS, ACTS, PLACES)]  # 100
    asked = [q.format(t) for q, t in product(QUESTIONS, TOPICS)]  # 80
    long = [f"{s} {a}, {TAIL}." for s, a in product(SUBJECTS[:4], ACTS)]  # 20
    return plain + asked + long
