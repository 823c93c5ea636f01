"""What ``swell plan`` says of a job that is being written, as HTML. Nothing is sent or launched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from launcher import home
from launcher.dashboard.form import Form, as_yaml
from launcher.job.fitness import warnings
from launcher.job.jobfile import JobFile, JobFileError, made_job
from launcher.job.json_schema import job_schema
from launcher.job.prices import load_prices
from launcher.job.yamlfile import read_yaml
from launcher.plan import request_of
from launcher.report import page
from launcher.target import problems
from launcher.views import plan as plans
from trainer.rundir.usererror import Message, Unusable

FILE = "job.yaml"
PRICES = "Machines and prices"
REQUEST = "The CustomJob that is sent first"
START = {"pools.0.machine": "a2-highgpu-1g"}


class Planner:
    """Plans jobs as files of one folder: what they name is looked for there.

    Args:
        folder: the folder.
        variables: what ``${NAME}`` in a job refers to.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str] = os.environ) -> None:
        self._file = str(folder / FILE)
        self._variables = variables
        self._form = Form(job_schema())

    def fields(self, values: Mapping[str, str]) -> str:
        """Returns the form's fields, with what is in them."""
        return self._form.html(values)

    def plan(self, values: Mapping[str, str]) -> str:
        """Returns what the fields come to: the job file, and its plan or what is wrong with it."""
        try:
            text = as_yaml(self._form.tree(values))
        except Unusable as error:
            return _wrong([str(one) for one in error.messages])
        shown = f"<h3>{FILE}</h3>{page.whole(text, FILE)}" if text else ""
        try:
            return self._planned(text) + shown
        except JobFileError as error:
            return _wrong([self._line(one) for one in error.messages]) + shown

    def _planned(self, text: str) -> str:
        tree, places = read_yaml(text, self._file, self._variables)
        made = made_job(tree or {}, places, self._file, variables=self._variables)
        if found := problems(made.job, "any"):
            raise JobFileError.of(made.located(found))
        return _table(made) + _request(made) + self._cautions(made)

    def _cautions(self, made: JobFile) -> str:
        told = map(self._line, made.located([*warnings(made.job)]))
        return "".join(f'<p class="note">{page.text_of(one, 600)}</p>' for one in told)

    def _line(self, told: Message) -> str:
        """A message about the file, which stands beside it."""
        return f"line {told}".replace(f"{self._file}:", "", 1)


def _table(made: JobFile) -> str:
    said = plans.table(made.job, load_prices(home.folder()))
    note = ""
    if made.job.code:
        note = page.paragraph("The code folder is not packed here; swell plan shows what is sent.")
    return f"<h3>{PRICES}</h3>{page.whole(said, PRICES)}{note}"


def _request(made: JobFile) -> str:
    request = request_of(made.job, f"{made.job.name}-DATE-TIME-ID")
    return page.details(REQUEST, page.whole(plans.as_yaml(request), REQUEST))


def _wrong(lines: list[str]) -> str:
    told = "".join(f"<li>{page.text_of(line, 600)}</li>" for line in lines)
    return f'<div class="alert"><p>It is no job yet:</p><ul>{told}</ul></div>'
