"""The names that launcher and trainer must agree on: variables, files, exit codes, how runs end."""

from __future__ import annotations

from typing import Literal

# The environment that the launcher gives to every replica.
ENV_RUN_DIR = "SWELL_RUN_DIR"
ENV_RUN_ID = "SWELL_RUN_ID"
ENV_TOKEN = "SWELL_TOKEN"  # secret: never logged, never in argv
ENV_TOKEN_SECRET = "SWELL_TOKEN_SECRET"  # or where in Secret Manager it is
ENV_ATTEMPT = "SWELL_ATTEMPT"
ENV_PROBE = "SWELL_PROBE"  # secret, of swell doctor --probe alone
ENV_CHECKPOINTS = "SWELL_CHECKPOINTS"  # URLs whose checkpoints are read, as a JSON list; written
# to the first. By default the run directory's alone.
ENV_OUTPUT_DIR = "SWELL_OUTPUT_DIR"  # for a torchrun script: its folder, which outlives the VM
# What a replica may be told about its machine; found out by itself otherwise.
ENV_ADDRESS = "SWELL_ADDRESS"
ENV_SLOTS = "SWELL_SLOTS"
ENV_SCRATCH = "SWELL_SCRATCH"  # a folder for the user's code; by default one for temporary files

# Exit codes of an agent (docs/architecture.md, "How a run ends").
EXIT_OK = 0
EXIT_FAILED = 1  # nothing can help; the reason is in outcome.json
EXIT_RETRY = 134  # only a fresh attempt can help; Vertex retries the whole job on it
EXIT_REPLACE = 143  # this machine is at fault; Vertex starts a replica again that a signal ended

RUN = "run.json"
OUTCOME = "outcome.json"
OUTCOME_ROOM = 2**16  # bytes that are kept for it on a disk that may be full by then
STOP = "stop.json"
ATTEMPTS = "attempts"
WANTED = "wanted"
ATTENDANTS = "attendants"
CONTROLLERS = "controllers"
LEADER = "leader"
EVENTS = "events"
AUDIT = "audit"
CHECKPOINTS = "checkpoints"
CODE = "code"
MACHINES = "machines"  # what they do: see trainer.coordinator.machines
PROFILES = "profiles"  # of steps: see trainer.rundir.profiles
REPORTS = "reports"  # of a probe: see trainer.probe

# What a new run may take of a checkpoint, besides all of it: URL#weights.
WEIGHTS = "weights"
OPTIMIZER = "optimizer"
START_PARTS = (WEIGHTS, f"{WEIGHTS},{OPTIMIZER}")
START_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # weights of other programs

JSON_LIMIT = 8 * 2**20  # bytes; nothing that Swell writes as one JSON file comes near it

OutcomeState = Literal["succeeded", "failed", "cancelled", "limited"]

UNSAVED = "SW5150"  # the message that the end of a run is in no checkpoint
