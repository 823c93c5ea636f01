"""Files that look like secrets: what must not travel by accident.

No list is complete. This one knows the names that keys and logins usually have, and the forms of
keys and tokens that tell themselves apart from other text. What it misses is sent.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch

_NAMES = (
    ".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk",
    "*.kdbx", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", ".netrc", "_netrc", ".pgpass",
    ".htpasswd", ".git-credentials", ".pypirc", ".boto", ".s3cfg", "kaggle.json", "*.tfstate",
    "*.tfstate.backup", "application_default_credentials.json", "credentials.json",
    "credentials.db", "client_secret*.json", "service_account*.json", "service-account*.json",
    "*.agekey", "secrets.json", "secrets.toml", "secrets.yaml", "secrets.yml",
)  # fmt: skip
_FOLDERS = {".ssh", ".aws", ".gnupg", ".kube", ".azure", ".gcloud", ".docker"}
_NO_SECRETS = (".env.example", ".env.sample", ".env.template", "*.pub")

# (?:\s|\\[nr])+ also meets keys inside JSON, where line ends are written out.
_CONTENTS = (
    (
        "holds a private key",
        rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:\s|\\[nr])+"
        rb"(?:[A-Za-z-]+: [^\n]*\s+)*[A-Za-z0-9+/=]{16}",
    ),
    ("holds a login of Google Cloud", rb'"(?:refresh_token|client_secret)"\s*:\s*"[^"\s]{12}'),
    ("holds an API key of Google's", rb"\bAIza[0-9A-Za-z_-]{35}\b"),
    ("holds an access token of Google's", rb"\bya29\.[0-9A-Za-z_-]{20}"),
    ("holds an access key of Amazon's", rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    ("holds a token of GitHub's", rb"\b(?:gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{22})"),
    ("holds a token of Hugging Face's", rb"\bhf_[A-Za-z]{34}\b"),
    ("holds a token of Slack's", rb"\bxox[abeprs]-[0-9A-Za-z-]{10}"),
    (
        "holds a webhook of Slack's",
        rb"https://hooks\.slack\.com/(?:services|workflows)/T[0-9A-Z]+/[0-9A-Z]+/\w{10}",
    ),
)
_PATTERNS = tuple((what, re.compile(pattern)) for what, pattern in _CONTENTS)


def suspicion(name: str, leads_to: str, data: bytes) -> str | None:
    """Returns why a file looks like a secret; None when it does not.

    Args:
        name: its path inside the folder.
        leads_to: its own name, which for a link is another one than that in ``name``.
        data: its content.
    """
    *folders, own = name.split("/")
    if not _FOLDERS.isdisjoint(folders):
        return "is in a folder of logins and keys"
    for one in (own.lower(), leads_to.lower()):
        if any(fnmatch(one, form) for form in _NO_SECRETS):
            continue
        if any(fnmatch(one, form) for form in _NAMES):
            return "has the name of a secret"
    return next((what for what, pattern in _PATTERNS if pattern.search(data)), None)
