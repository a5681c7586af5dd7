"""What a sweep file says of models, data and calibration texts."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from sweep.choices import Part

Count = Annotated[int, Field(ge=1)]
"""At least one."""


class Model(Part):
    """A base model: `builtin`, a folder, or a hub id with a revision."""

    builtin: bool = False
    """The small base model that this project makes itself, once."""
    folder: str | None = None
    """Folder as `save_pretrained` writes it, relative to the sweep file."""
    hub: str | None = None
    """Id on the Hugging Face hub."""
    revision: str = "main"
    """Of a hub id: commit, tag or branch. A commit pins what is loaded."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless asked for here."""
    short: ClassVar = "builtin, a folder or a hub id"

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value == "builtin":
            return {"builtin": True}
        looks_like_path = value.startswith((".", "/", "~")) or value.count("/") != 1
        return {"folder": value} if looks_like_path else {"hub": value}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum([self.builtin, self.folder is not None, self.hub is not None]) != 1:
            raise ValueError("wants exactly one of builtin, folder, hub")
        return self


class Data(Part):
    """Where the records come from: `builtin`, one file, a file per split, or a hub id."""

    builtin: bool = False
    """Synthetic fault tickets that this project generates."""
    path: str | None = None
    """One JSONL, CSV or Parquet file, divided 80/10/10; relative to the sweep file, or inside the hub's data set."""
    train: str | None = None
    """File of the training split."""
    validation: str | None = None
    """File of the validation split; without it a tenth of the training split."""
    test: str | None = None
    """File of the test split."""
    hub: str | None = None
    """Id of a data set on the Hugging Face hub."""
    revision: str = "main"
    """Of a hub id: commit, tag or branch."""
    columns: dict[str, str] = {}  # noqa: RUF012 - pydantic copies it
    """Our field names to the data's column names, where they differ."""
    short: ClassVar = "builtin or a file"

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return {"builtin": True} if value == "builtin" else {"path": value}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        files = (self.path is not None) + (self.train is not None)
        if self.builtin + max(files, self.hub is not None) != 1 or files > 1:
            raise ValueError("wants exactly one of builtin, path, train with test, hub")
        if (self.train is None) != (self.test is None):
            raise ValueError("train and test go together")
        if self.validation is not None and self.train is None:
            raise ValueError("validation goes with train and test")
        return self


class CalibrationChoice(Part):
    """What calibrated prunings look at: examples of the training split, or own texts."""

    examples: Count = 128
    """Examples drawn, with the trial's seed."""
    path: str | None = None
    """JSONL, CSV or Parquet file of own texts, relative to the sweep file. Default: the training split."""
    column: str = "text"
    """Its column that holds the texts."""
