"""A study's own files for a login node: corpora and tokenizers that lie on this machine alone.

They are sent to the shared folder once, by a digest of their content; a run's identity is in that,
not in where it lies.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cola.errors import SpecError
from cola.files import storage_errors
from cola.spec.locations import file_paths, with_paths
from cola.study import StudySpec
from orchestration.planning.units import count
from orchestration.recipes.sources import DIGITS, plain, unpack
from orchestration.remote.submission import Submission
from orchestration.slurm.jobs import JobSite

FOLDER = "cola-files"
MOST_BYTES = 2**28  # of one corpus or file: what is packed in memory; a chosen value
OUTPUTS = ("output", "checkpoint.storage")  # paths of what a study writes


def with_files_sent(work: Submission, site: JobSite) -> Submission:
    """The study with the paths of its files on the login node, which has them then.

    What lies below the shared folder is taken for the cluster's own.

    Raises:
        SpecError: a file or folder is too large to be sent, has links in it or is a sweep's, or an
            ssh host does not answer.
        StorageError: a file cannot be read, or the shared folder takes none.
    """
    here = {
        key: path
        for key, path in file_paths(work.study).items()
        if key not in OUTPUTS and not Path(path).is_relative_to(site.shared)
    }
    if work.kind == "sweep":
        check_none(here, site)
        return work
    places = {key: sent(key, Path(os.path.normpath(path)), site) for key, path in here.items()}
    study: StudySpec = with_paths(work.study, places)
    return replace(work, study=study, specification=study.to_yaml()) if places else work


def check_none(here: Mapping[str, str], site: JobSite) -> None:
    """Check that a sweep has no files outside of the shared folder.

    Raises:
        SpecError: it has; the message names the first one's key.
    """
    for key, path in here.items():
        raise SpecError(
            f"{key}={path}: is not below {site.shared} (shared), and files of a sweep are not "
            f"sent; copy it to the folder {site.shared} of {site.machine.where}, and to the same "
            "path here, or use --environment cluster where that machine has it already"
        )


def sent(key: str, path: Path, site: JobSite) -> str:
    """Where a file or folder of this machine lies there, sent if it does not yet.

    Raises:
        SpecError: it is too large, or has links in it; the message names `key`.
        StorageError: see `with_files_sent`.
    """
    with storage_errors(path, remedy="check its permissions", done="read"):
        files = [path, *path.rglob("*")]
        links = [each for each in files[1:] if each.is_symlink()]
        if links:  # a corpus reads what several names stand for once
            raise SpecError(f"{key}={path}: has a link in it, {links[0]}; send a folder without")
        size = sum(each.stat().st_size for each in files if each.is_file())
        if size > MOST_BYTES:
            raise SpecError(
                f"{key}={path}: has {count(size)}B, and at most {count(MOST_BYTES)}B are sent; "
                f"copy it to the folder {site.shared} of {site.machine.where}, and to the same "
                "path here"
            )
        archive = archive_of_path(path)
    folder = Path(site.shared, FOLDER, hashlib.sha256(archive).hexdigest()[:DIGITS])
    if not site.machine.has_folder(folder):
        unpack(site.machine, gzip.compress(archive, mtime=0), folder)
    return str(folder / path.name)


def archive_of_path(path: Path) -> bytes:
    """A file or folder, which may be a link, as an archive that is the same for the same names and
    contents."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", dereference=True) as archive:
        archive.add(path, path.name, filter=plain)
    return content.getvalue()
