"""Input: from a manifest to a plan, and from a plan to the orders of its jobs.

`joined` makes one file of a manifest's files, and `image_pairs` splits Hugging Face's
images into columns of ours.

`columns` checks the names and types of columns before any row is read, and fills in
defaults. `first_pass` then surveys all rows for repeated ids, priorities and limits.
`carried` then reads the columns that the tables repeat: the copy of a manifest is rewritten
where polars could not. `reader.check` reads every row once, in slices. `validation` lists a complaint for each
value that is wrong, and `job_ids` computes the ids of the good rows. `plan` holds the
result: the key, priority and limit of each good row, most urgent first, and the complaints.

A plan has no prompts or stills. `reader.orders` reads them again for one shard of the plan
at a time, and yields its jobs. `embedded_images` reads stills from the column
`image_bytes` a few rows at a time, and `shard_extract` cuts a shard out as a manifest.
A bad row never stops the others; a file that cannot be read raises `ManifestError`
before any clip is bought.
"""

from manifests.input.carried import has_unknown_types, make_readable
from manifests.input.columns import ManifestError, reading, scan
from manifests.input.embedded_images import COLUMN
from manifests.input.image_pairs import has_pairs, split_pairs
from manifests.input.joined import Part, join
from manifests.input.plan import Plan, todo
from manifests.input.reader import check, demand, orders, stills
from manifests.input.shard_extract import cut, planned
from manifests.input.validation import ODD_PLACE

__all__ = [
    "COLUMN",
    "ODD_PLACE",
    "ManifestError",
    "Part",
    "Plan",
    "check",
    "cut",
    "demand",
    "has_pairs",
    "has_unknown_types",
    "join",
    "make_readable",
    "orders",
    "planned",
    "reading",
    "scan",
    "split_pairs",
    "stills",
    "todo",
]
