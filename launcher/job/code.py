"""``code:`` in a job file: a local folder that every run brings along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from launcher.job.model import JobModel, Text, beside
from launcher.job.problem import NUL, RANGE, problem
from launcher.job.sizes import Size, SizeField

MAX_SIZE = Size(2**30)  # what a VM takes in (trainer.rundir.bundle)
DEFAULT_SIZE = Size(32 * 2**20)


def _size(size: Size) -> Size:
    if not 0 < size.bytes <= MAX_SIZE.bytes:
        raise problem(RANGE, f"is {size}; code has at most {MAX_SIZE}, data belongs into a bucket")
    return size


class Code(JobModel):
    """A folder with the user's program, sent along with the run. The folder alone is short.

    ``.gitignore`` and ``.swellignore`` say what stays behind; see launcher.packing.pack.
    """

    folder: Annotated[str, Field(min_length=1)] = Field(description="Beside the job file")
    exclude: list[str] = Field(
        default_factory=list, description="What stays behind, besides; as in .gitignore"
    )
    allow: list[str] = Field(
        default_factory=list, description="Files that look like secrets, and are none"
    )
    requirements: Annotated[str, Text(r"[^/\\].*", "write a file in the code folder")] | None = (
        Field(None, description="A file in the folder; what it lists is installed on every VM")
    )
    max_size: Annotated[SizeField, AfterValidator(_size)] = Field(
        DEFAULT_SIZE, description="More than that is refused; at most 1GiB"
    )

    _short: ClassVar = {"type": "string"}
    _forms: ClassVar = "a folder, or a mapping of folder, exclude, …"

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        return {"folder": data} if isinstance(data, str) else data

    @field_validator("folder")
    @classmethod
    def _folder_is_beside_the_job_file(cls, folder: str, info: ValidationInfo) -> str:
        if "\0" in folder:
            raise problem(NUL, "holds a NUL character; remove it")
        return beside(folder, info)

    def inside(self, file: str) -> str | None:
        """Returns the name of ``file`` in the folder; None for one that is elsewhere."""
        try:
            return Path(file).relative_to(self.folder).as_posix()
        except ValueError:
            return None

    def missing(self) -> Iterator[tuple[str, str]]:
        """Yields each field that names what is not there, and the remedy."""
        folder = Path(self.folder)
        if not folder.is_dir():
            yield "folder", f"there is no folder {folder}; name one that exists"
        elif self.requirements and not (folder / self.requirements).is_file():
            yield "requirements", f"there is no {self.requirements} in {folder}; name one"
