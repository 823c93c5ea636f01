"""A GPU's critical errors, by the numbers that NVIDIA's driver has for them: Xid.

Both sides name them: a leader in an event, and the launcher of what machines did last.
"""

from __future__ import annotations

# The errors that training meets most, by NVIDIA's list of them.
XIDS = {
    13: "a kernel went wrong",
    31: "a kernel used memory that it does not have",
    48: "an error in its memory that cannot be corrected",
    63: "a part of its memory is taken out of use",
    64: "a faulty part of its memory cannot be taken out of use",
    74: "an error of an NVLink",
    79: "it has fallen off the bus",
    94: "an error in its memory, of one program",
    95: "an error in its memory, of all programs",
    119: "its own processor does not answer",
}


def xid_in_words(gpu: int, xid: int) -> str:
    """What a GPU's critical error is, for who reads it.

    Args:
        gpu: which one of its machine, from 0.
        xid: the number, as the driver gives it (docs.nvidia.com/deploy/xid-errors).
    """
    what = XIDS.get(xid)
    return f"GPU {gpu} reports Xid {xid}" + (f": {what}" if what else "")
