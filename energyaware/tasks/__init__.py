"""The tasks a model can be fine-tuned for and measured on, by name."""

from energyaware.tasks.base import Example, Record, Score, Task
from energyaware.tasks.response import Response
from energyaware.tasks.root_cause import RootCause

TASKS: dict[str, Task] = {"root_cause": RootCause(), "response": Response()}

__all__ = ["TASKS", "Example", "Record", "Score", "Task"]
