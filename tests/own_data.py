"""A user's own tickets, as a file: two causes that a word gives away, in columns named their way."""

import json
import random
from pathlib import Path


def save_tickets(path: Path, count: int = 60, seed: int = 0, noise_words: int = 0) -> Path:
    """JSONL with the columns text, label and reply."""
    draw = random.Random(seed)
    lines = []
    for number in range(count):
        label = ("fibre", "power")[number % 2]
        word = {"fibre": "loss of signal", "power": "voltage low"}[label]
        site = draw.randrange(1000)
        noise = "noise " * noise_words
        lines.append(
            json.dumps(
                {"text": f"{noise}alarm {word} at site {site}", "label": label, "reply": f"check {label} at {site}"}
            )
        )
    path.write_text("\n".join(lines) + "\n")
    return path


COLUMNS = {"ticket": "text", "root_cause": "label", "response": "reply"}
