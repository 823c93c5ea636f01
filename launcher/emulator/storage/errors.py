"""What the emulated Cloud Storage answers instead of what was asked for."""

from __future__ import annotations

from collections.abc import Mapping


class StorageError(Exception):
    """A request that is not carried out; its text is the message that the client is sent.

    Attributes:
        status: the HTTP status of the answer.
        reason: the JSON API's word for it.
        code: the XML API's word for it.
        headers: what the answer says besides.
    """

    status = 400
    reason = "invalid"
    code = "InvalidArgument"
    headers: Mapping[str, str] = {}


class Refused(StorageError, ValueError):
    """The request makes no sense; the message says why."""


class Corrupted(Refused):
    """The content is not what its client says that it sends."""

    code = "BadDigest"


class NoSuchThing(StorageError, LookupError):
    """There is no such bucket, object or upload; the message says which."""

    status = 404
    reason = "notFound"
    code = "NoSuchKey"


class NoSuchBucket(NoSuchThing):
    """There is no such bucket."""

    code = "NoSuchBucket"

    def __init__(self) -> None:
        super().__init__("The specified bucket does not exist.")


class ConditionFailed(StorageError):
    """A precondition of the request does not hold."""

    status = 412
    reason = "conditionNotMet"
    code = "PreconditionFailed"

    def __init__(self) -> None:
        super().__init__("At least one of the pre-conditions you specified did not hold.")


class NotChanged(StorageError):
    """A read asked for anything but what is there."""

    status = 304
    reason = "notModified"
    code = "NotModified"


class Taken(StorageError):
    """The bucket exists already, or is not empty."""

    status = 409
    reason = "conflict"
    code = "BucketAlreadyExists"


class Ended(StorageError):
    """The upload or rewrite that a request goes on with has failed, or never began."""

    status = 410
    reason = "gone"
    code = "NoSuchUpload"


class Busy(StorageError):
    """What a request asks for is being decided by another one: clients try again."""

    status = 503
    reason = "backendError"
    code = "ServiceUnavailable"


class OutOfRange(StorageError):
    """A read asked for bytes behind the end.

    Args:
        size: how many bytes there are.
    """

    status = 416
    reason = "requestedRangeNotSatisfiable"
    code = "InvalidRange"

    def __init__(self, size: int) -> None:
        super().__init__("The requested range cannot be satisfied.")
        self.headers = {"Content-Range": f"bytes */{size}"}


class NotServed(StorageError):
    """Cloud Storage can do this, and the emulator cannot.

    Args:
        feature: its name, as docs/emulator.md lists it.
    """

    status = 501
    reason = "notImplemented"
    code = "NotImplemented"

    def __init__(self, feature: str) -> None:
        super().__init__(f"The emulator does not serve {feature}. Cloud Storage does.")
