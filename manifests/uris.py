"""URIs of images: made absolute by text alone, and stripped of their signatures."""

import hashlib
import re
from functools import lru_cache
from itertools import takewhile
from typing import Final
from urllib.parse import unquote

SCHEMES: Final = frozenset(
    "file http https s3 s3a gs gcs az abfs abfss adl hf memory zip tar ftp ftps sftp ssh "
    "smb hdfs webhdfs oss oci box gdrive dropbox github git lakefs dbfs wandb local "
    "simplecache filecache blockcache libarchive webdav".split()
)
"""The schemes that fsspec can open, and its chains such as `zip://a.jpg::s3://bucket/stills.zip`."""

EMPTY_NAME: Final = "has // in its key, which cannot be read: copy it to another key"
"""The complaint about an object in a store whose key has an empty name (obstore 0.12.1)."""

_HOSTLESS: Final = frozenset({"file", "local", "memory", "zip", "tar", "libarchive"})
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(://|::)")
_CHAINED: Final = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*(?:://|::))")
"""The separator of a chain's links; a host of IPv6 and an object's key may contain `::`."""


def scheme(uri: str) -> str:
    """The URI's scheme in lower case, or "" if it is relative or a path."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def links(uri: str) -> list[str]:
    """The links of a chain such as `zip://a.jpg::https://host/z.zip`, from inside out."""
    return _CHAINED.split(uri)


def absolute(uri: str, base: str) -> str:
    """The URI as seen from the file at `base`.

    A URI stays as it is, to the letter, but HTTPS: is https:. A name without a scheme is
    a path, to the letter: a file called `50%20off.png` becomes `file:///…/50%2520off.png`.
    A path from the root is a file of this machine, whatever the base.
    """
    if own := _SCHEME.match(uri):
        return uri if own[1].islower() else own[0].lower() + uri[own.end() :]
    if uri.startswith("/"):
        return f"file://{_escaped(uri)}"
    start = _SCHEME.match(base)
    if start and start[2] == "::":
        return start[0] + absolute(uri, base[start.end() :])
    inner, *outer = _CHAINED.split(base, maxsplit=1)
    beside = _beside(inner, _escaped(uri) if scheme(inner) in {"", "file"} else uri)
    return "::".join([beside, *outer])


def _escaped(path: str) -> str:
    # A file URI is decoded when it is opened, and nothing else in it has a meaning.
    return path.replace("%", "%25")


def _beside(base: str, name: str) -> str:
    root, folders = _folder(base)
    steps = [*folders]
    for step in name.split("/"):
        if step == "..":
            del steps[-1:]
        elif step != ".":
            steps.append(step)
    return root + "/".join(steps)


def folder(base: str) -> str:
    """The folder of a manifest, with a slash at its end; that of a pattern has no `*`."""
    root, folders = _folder(base)
    return root + "".join(f"{name}/" for name in folders)


@lru_cache(maxsize=8)
def _folder(base: str) -> tuple[str, tuple[str, ...]]:
    """The host, bucket or root above which `..` cannot go, and the folders below it.

    Those of a pattern such as `s3://bucket/night/day=*/*.parquet` end before its first `*`.
    """
    start = _SCHEME.match(base)
    root, path = (start[0], base[start.end() :]) if start else ("file://", base)
    if scheme(root) in {"http", "https"}:
        path = re.split("[?#]", path, maxsplit=1)[0]
    if scheme(root) not in _HOSTLESS or path.startswith("/"):
        host, _, path = path.partition("/")
        root = f"{root}{host}/"
    folders = path.split("/")[:-1]
    if scheme(root) not in {"http", "https"}:
        folders = [*takewhile(lambda name: "*" not in name, folders)]
    return root, tuple(folders)


def is_several(uri: str) -> bool:
    """Whether a manifest is several files: a folder ends with /, a pattern has a `*`."""
    if len(links(uri)) > 1 or scheme(uri) in {"http", "https"}:
        return False
    return uri.endswith("/") or "*" in uri


# Signatures of links: the parameters that identify each kind, then all that it adds. Only
# the parameters of an identified kind are removed. `Expires` alone may distinguish two
# stills, and OSS crops a picture by a parameter called `x-oss-process`.
# A version's id, a size, a crop are never part of a proof.
# Read in the documentation of AWS, Google Cloud, Azure, Alibaba Cloud, Tencent Cloud,
# Huawei Cloud and bunny.net, 2026-11.
_PROOFS: Final = tuple(
    (frozenset(given_away.split()), re.compile(adds.replace(" ", "|")))
    for given_away, adds in {
        # S3, version 4: R2, B2, MinIO and most others too. A parameter that begins with
        # x-amz- is a header moved into the link, and does not select the content.
        "x-amz-signature": "x-amz-.* x-id",
        "awsaccesskeyid signature": (
            "awsaccesskeyid signature expires x-amz-security-token"
        ),
        # CloudFront.
        "key-pair-id signature": "key-pair-id signature expires policy hash-algorithm",
        # Google Cloud Storage, version 4 and version 2; Cloud CDN.
        "x-goog-signature": "x-goog-.*",
        "googleaccessid signature": "googleaccessid signature expires",
        "keyname signature": "keyname signature expires urlprefix",
        # Azure: a shared access signature, of a service, an account or a user.
        "sv sig": (
            "sv sig se st sp sr ss srt si sip spr ses sdd skoid sktid skt ske sks skv "
            "saoid suoid scid skdutid sduoid"
        ),
        # Alibaba OSS, version 1, then versions 2 and 4.
        "ossaccesskeyid signature": "ossaccesskeyid signature expires security-token",
        "x-oss-signature": (
            "x-oss-signature x-oss-signature-version x-oss-credential x-oss-date "
            "x-oss-expires x-oss-access-key-id x-oss-additional-headers "
            "x-oss-security-token"
        ),
        # Tencent COS.
        "q-signature": (
            "q-sign-algorithm q-ak q-sign-time q-key-time q-header-list "
            "q-url-param-list q-signature x-cos-security-token"
        ),
        # Huawei OBS.
        "accesskeyid signature": "accesskeyid signature expires x-obs-security-token",
        # bunny.net, for a folder. For a file it is `token` and `expires`, which many
        # sites use as the names of parameters that identify the file.
        "token expires token_path": (
            "token expires token_path token_countries token_countries_blocked "
            "token_ignore_params"
        ),
    }.items()
)

SHORTEST_SECRET: Final = 8
"""Characters of a secret that is masked; anything shorter also occurs in ordinary text."""

# Parameters that give access and never select the content.
_SECRETS: Final = frozenset(
    "access_token accesstoken auth_token authtoken id_token api_key api-key apikey "
    "x-api-key client_secret password passwd jwt".split()
)
# Names of secrets that elsewhere name the file itself, as in `/download?key=cat.jpg`.
_VEILED: Final = frozenset("token key sig signature secret auth".split())
_JWT: Final = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")
_VEIL: Final = re.compile(r"~[0-9a-f]{12}")

_START: Final = re.compile(r"([^\w/]*([A-Za-z][A-Za-z0-9+.-]*)://)([^/?#]*@)?")
# A password with an unescaped / ? or #: the text in place of the port is not a number, so
# no library can open the URI.
_UNESCAPED: Final = re.compile(r"[^/?#@:\[]*:(?![0-9]*(?:[/?#]|$)).*@", re.DOTALL)

# Schemes in which the text before the @ is a container, a bucket, a repository, or part of a path.
_NAMED_AT: Final = frozenset(
    "abfs abfss adl az wasb wasbs oci git github hf box dbfs dropbox gdrive "
    "file local memory zip tar libarchive".split()
)
# Schemes in which the user name decides what a path means: each user has a home folder.
_LOGINS: Final = frozenset("ftp ftps sftp ssh smb hdfs webhdfs".split())
_WEB: Final = frozenset({"http", "https"})
_HOSTED: Final = _WEB | _LOGINS


def unsigned(uri: str) -> str:
    """The URI without the parts that only prove the right to read it.

    A link that is signed anew each night names the same still, and its signature,
    password or token must not be stored. A parameter such as `token`, which may be a
    secret or the name of the file, becomes a digest: `token=~0a1b2c3d4e5f`. The rest
    stays as it is, to the letter: two stills never become one. Any text is accepted, a
    URI or not.
    """
    if "?" in uri or "@" in uri or "#" in uri:
        return "::".join(map(_unproved, _CHAINED.split(uri)))
    return uri


def _unproved(link: str) -> str:
    """One link of a chain such as `zip://a.jpg::https://host/stills.zip`."""
    web = False
    if start := _START.match(link):
        scheme, user, rest = start[2].lower(), start[3] or "", link[start.end() :]
        if scheme in _HOSTED and (odd := _UNESCAPED.match(rest)):
            user, rest = odd[0], rest[odd.end() :]
        link = start[1] + _account(scheme, user) + rest
        if web := scheme in _WEB:
            # The fragment is never sent, so it selects nothing; elsewhere # is an ordinary
            # character.
            link = link.partition("#")[0]
    place, asks, query = link.partition("?")
    if not asks:
        return link
    query, hashed, rest = query.partition("#")
    kept = _kept(query.split("&"))
    if web:
        kept = [veiled for each in kept if (veiled := _veiled(each)) is not None]
    return f"{place}?{'&'.join(kept)}{hashed}{rest}" if kept else place + hashed + rest


def _account(scheme: str, user: str) -> str:
    """The part of `name:password@` to keep; a name that is no login may be a token."""
    if scheme in _NAMED_AT:
        return user
    name = user[:-1].partition(":")[0] if scheme in _LOGINS else ""
    return f"{name}@" if name else ""


def _kept(parameters: list[str]) -> list[str]:
    # Decode only to compare: ?k=%FF and ?k=%FE are two stills.
    names = [unquote(each.partition("=")[0]).lower() for each in parameters]
    there = {*names}
    proofs = [adds for given_away, adds in _PROOFS if given_away <= there]
    return [
        each
        for each, name in zip(parameters, names, strict=True)
        if not any(adds.fullmatch(name) for adds in proofs)
    ]


def _veiled(parameter: str) -> str | None:
    """A parameter without its secret; None if it is nothing else."""
    raw, _, value = parameter.partition("=")
    name = unquote(raw).lower()
    if name in _SECRETS:
        return None
    if name not in _VEILED or not value or _VEIL.fullmatch(value):
        return parameter
    if _JWT.fullmatch(value):
        # It is made anew for each link, and the path names the file.
        return None
    return f"{raw}=~{hashlib.sha256(value.encode('utf-8', 'replace')).hexdigest()[:12]}"
