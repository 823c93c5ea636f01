"""What Vertex AI has and the emulator has not: each is refused by its name, with a way around."""

from __future__ import annotations

from launcher.emulator.resources.errors import ApiError

# The collections of a location, with what to do instead.
INSTEAD = {
    "hyperparameterTuningJobs": "create a CustomJob for each trial",
    "nasJobs": "create a CustomJob for each trial",
    "persistentResources": "leave persistentResourceId out, and machines are made for the job",
    "trainingPipelines": "create the CustomJob that the pipeline would start",
    **dict.fromkeys(
        (
            "artifacts",
            "batchPredictionJobs",
            "dataLabelingJobs",
            "datasets",
            "deploymentResourcePools",
            "endpoints",
            "featureGroups",
            "featureOnlineStores",
            "featurestores",
            "indexEndpoints",
            "indexes",
            "metadataStores",
            "modelDeploymentMonitoringJobs",
            "models",
            "notebookExecutionJobs",
            "notebookRuntimeTemplates",
            "notebookRuntimes",
            "pipelineJobs",
            "ragCorpora",
            "reasoningEngines",
            "schedules",
            "specialistPools",
            "studies",
            "tensorboards",
            "tuningJobs",
        ),
        "the emulator serves customJobs",
    ),
}


def unimplemented(what: str, instead: str) -> ApiError:
    """Vertex AI can do this, and the emulator cannot."""
    message = f"The emulator does not serve {what}, as Vertex AI does: {instead}."
    return ApiError(501, "UNIMPLEMENTED", message)


def check_collection(name: str) -> None:
    """Raises ApiError when a collection is one of Vertex AI's that are not served."""
    if name in INSTEAD:
        raise unimplemented(name, INSTEAD[name])
