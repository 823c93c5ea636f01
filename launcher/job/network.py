"""How a job's replicas reach networks of yours."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from launcher.job.model import JobModel, Text, resource

Network = Annotated[str, resource("projects/PROJECT/global/networks/NAME")]


class DnsPeering(JobModel):
    """A domain whose names are looked up in a network of yours."""

    domain: Annotated[str, Text(r"\S+\.", "write a domain with its last dot: my.internal.")]
    project: Annotated[str, Text(r"[^\s/]+", "write a project's id or number")]
    network: Annotated[str, Text(r"[^\s/]+", "write the network's name alone")]


class PscInterface(JobModel):
    """A Private Service Connect interface. The attachment's name alone is its short form."""

    attachment: Annotated[
        str, resource("projects/PROJECT/regions/REGION/networkAttachments/NAME")
    ] = Field(description="projects/PROJECT/regions/REGION/networkAttachments/NAME")
    dns_peerings: list[DnsPeering] = Field(default_factory=list)

    _short: ClassVar = {"type": "string"}

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        return {"attachment": data} if isinstance(data, str) else data
