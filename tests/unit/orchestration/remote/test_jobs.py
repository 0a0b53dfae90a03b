"""What is refused before a cluster is spoken to, what is sent to it, and who wins a race."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement

from cola.errors import ClusterError, SpecError
from cola.study import StudySpec
from orchestration.remote import jobs
from orchestration.remote import packaging as job_sources
from orchestration.remote.endpoint import Endpoint, check_endpoint, is_loopback
from orchestration.remote.jobs import check_same_ray, submit
from orchestration.remote.packaging import (
    SOURCES,
    check_study,
    pack_sources,
    pinned_version,
    project_root,
    requirements,
    runtime_environment,
)
from orchestration.remote.remote_status import rows_in, study_and_job
from orchestration.remote.submission import study_submission
from tests.conftest import write_study

REMOTE = "https://cluster.example:8265"


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_remote_address_needs_a_token(no_token: None, monkeypatch: pytest.MonkeyPatch) -> None:
    check_endpoint(Endpoint("http://127.0.0.1:8265"))
    with pytest.raises(SpecError, match=r"needs a token; set RAY_AUTH_TOKEN"):
        check_endpoint(Endpoint(REMOTE))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    check_endpoint(Endpoint(REMOTE))
    for wrong in ("cluster:8265", "ray://cluster:10001", "http://"):
        with pytest.raises(SpecError, match=r"write it as http\(s\)://HOST:PORT"):
            check_endpoint(Endpoint(wrong))
    with pytest.raises(SpecError, match="takes no user or password") as refused:
        check_endpoint(Endpoint("https://me:hidden@cluster.example"))
    assert "hidden" not in str(refused.value)


def test_a_token_does_not_leave_in_clear_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    address = "http://10.0.0.1:8265"
    with pytest.raises(SpecError, match=r"in clear text; use https://, or a tunnel .*10\.0\.0\.1"):
        check_endpoint(Endpoint(address))
    check_endpoint(Endpoint(address, allow_http=True))
    with pytest.raises(SpecError, match=r"--ca-file .*no such file"):
        check_endpoint(Endpoint(REMOTE, Path("absent.pem")))


def test_loopback_is_told_from_the_rest() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.0.1", "::1")))
    assert not any(map(is_loopback, ("10.0.0.1", "localhost.example", "example.org", "0.0.0.0")))


def test_a_submitted_study_has_absolute_paths_and_no_secret(tiny_study: dict[str, Any]) -> None:
    check_study(StudySpec.parse(tiny_study))
    with pytest.raises(SpecError, match=r"output=outputs: a submitted study needs an absolute"):
        check_study(StudySpec.parse(tiny_study | {"output": "outputs"}))
    with pytest.raises(SpecError, match=r"checkpoint\.storage=kept: a submitted study needs"):
        check_study(StudySpec.parse(tiny_study | {"checkpoint": {"storage": "kept"}}))
    check_study(StudySpec.parse(tiny_study | {"checkpoint": {"storage": "s3://bucket/kept"}}))
    corpus = {"source": "files", "paths": ["books.txt"]}
    study = StudySpec.parse(tiny_study | {"data": tiny_study["data"] | {"corpus": corpus}})
    with pytest.raises(SpecError, match=r"data\.corpus\.paths\.0=books\.txt"):
        check_study(study)
    stored = {"storage": "s3://me:hidden@bucket/kept"}
    with pytest.raises(SpecError, match=r"checkpoint\.storage=.* holds credentials") as refused:
        check_study(StudySpec.parse(tiny_study | {"checkpoint": stored}))
    assert "hidden" not in str(refused.value)


def test_the_clusters_environment_gets_the_study_alone(
    tiny_study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hidden-token")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hidden-password")
    environment = runtime_environment(
        "cluster", tmp_path, {"study.yaml": StudySpec.parse(tiny_study).to_yaml()}
    )
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]
    assert "pip" not in environment
    assert set(environment["env_vars"]) == {"RAY_JOB_STOP_WAIT_TIME_S", "COLUMNS"}
    assert "hidden" not in str(environment) + (tmp_path / "study.yaml").read_text()


def test_the_pinned_environment_gets_sources_and_pins(tmp_path: Path) -> None:
    environment = runtime_environment("pinned", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(SOURCES)
    packed = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"orchestration/templates/slurm.sh.j2", "orchestration/studies/demo.yaml"} <= packed
    assert not [name for name in packed if "__pycache__" in name or "/." in name]
    digest, pins, project = environment["pip"]["packages"]
    assert digest.startswith("# sources ")
    assert pins == "--constraint ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt"
    assert project == "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"
    # pip takes no hashes where it builds a folder: the versions alone.
    pins = [Requirement(line) for line in (tmp_path / "constraints.txt").read_text().splitlines()]
    versions = {pin.name: str(pin.specifier) for pin in pins}
    assert versions["ray"] == f"=={pinned_version('ray')}"
    assert versions["triton"] == f"=={pinned_version('triton')}"  # it has a marker
    # Ray finds a built environment again by these lines: other sources have to be another one.
    (tmp_path / "study.yaml").unlink(missing_ok=True)
    (tmp_path / "cola" / "__init__.py").write_text("changed = True\n")
    assert requirements(tmp_path)[0] != digest


def test_what_lies_beside_the_sources_stays(tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "folder"
    folder.mkdir()
    for name in ("cola", "orchestration", "sweeps", "analysis", "tests", ".git", "outputs"):
        (root / name / "__pycache__").mkdir(parents=True)
        (root / name / "module.py").write_text("")
        for secret in (".env", "id_rsa", "credentials.json", "secrets.yaml", "weights.bin"):
            (root / name / secret).write_text("TOKEN=hidden")
        (root / name / "away").symlink_to("/etc")
        (root / name / "__pycache__" / "module.pyc").write_text("")
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "notes.txt"):
        (root / name).write_text("")
    pack_sources(root, folder)
    packed = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    modules = {f"{name}/module.py" for name in ("cola", "orchestration", "sweeps", "analysis")}
    assert packed == modules | {"pyproject.toml", "README.md", "LICENSE", "constraints.txt"}


@pytest.mark.parametrize("kind", ["link", "large"])
def test_what_is_no_source_is_not_sent(tmp_path: Path, kind: str) -> None:
    root, folder = tmp_path / "root", tmp_path / "folder"
    for name in ("cola", "orchestration", "sweeps", "analysis"):
        (root / name).mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        (root / name).write_text("")
    odd = root / "cola" / "odd.py"
    if kind == "link":
        odd.symlink_to("/etc/hostname")
    else:
        odd.write_bytes(b"#" * 2**21)
    with pytest.raises(SpecError, match=r"cola/odd\.py is a link or larger than 1 MiB"):
        pack_sources(root, folder)


def test_pinning_needs_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (project_root() / "constraints.txt").is_file()
    package = SimpleNamespace(__file__=str(tmp_path / "site-packages" / "cola" / "__init__.py"))
    monkeypatch.setattr(job_sources, "cola", package)
    with pytest.raises(SpecError, match=r"is no checkout of the project .*constraints\.txt"):
        project_root()


class Cluster:
    """Ray's job server as its documentation has it: a submission's name is taken once.

    `together` is how many clients look at the list of jobs before any of them submits.
    """

    def __init__(self, together: int = 1) -> None:
        self.jobs: dict[str, SimpleNamespace] = {}
        self.barrier, self.lock = threading.Barrier(together), threading.Lock()
        self.ray = "0.0"

    def list_jobs(self) -> list[SimpleNamespace]:
        found = list(self.jobs.values())
        self.barrier.wait(timeout=30)
        return found

    def submit_job(self, submission_id: str, metadata: dict[str, str], **_: Any) -> None:
        with self.lock:
            if submission_id in self.jobs:
                raise RuntimeError(
                    "Request failed with status code 400: ValueError: Job with submission_id "
                    f"{submission_id} already exists. Please use a different submission_id."
                )
            self.jobs[submission_id] = SimpleNamespace(
                submission_id=submission_id,
                status=SimpleNamespace(value="PENDING"),
                message="",
                metadata=metadata,
            )

    def get_job_info(self, name: str) -> SimpleNamespace:
        return self.jobs[name]

    def _do_request(self, method: str, path: str) -> SimpleNamespace:
        assert (method, path) == ("GET", "/api/version")
        return SimpleNamespace(json=lambda: {"ray_version": self.ray})


def test_of_submissions_at_the_same_time_one_wins(tiny_study: dict[str, Any]) -> None:
    cluster, study = Cluster(together=4), StudySpec.parse(tiny_study)
    found: list[tuple[str, bool]] = []

    def one() -> None:
        job, attached = submit(cluster, study_submission(study))
        found.append((job.submission_id, attached))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == [("cola-tiny-1", False), *[("cola-tiny-1", True)] * 3]
    assert list(cluster.jobs) == ["cola-tiny-1"]


def test_another_refusal_is_an_error(tiny_study: dict[str, Any]) -> None:
    class Full(Cluster):
        def submit_job(self, **_: Any) -> None:
            raise RuntimeError("Request failed with status code 500: No available agent")

    with pytest.raises(
        ClusterError, match=r"study tiny: the cluster refuses it \(.*No available agent"
    ):
        submit(Full(), study_submission(StudySpec.parse(tiny_study)))


def test_pinning_needs_the_clusters_ray() -> None:
    with pytest.raises(ClusterError, match=r"constraints\.txt pins ray==.*, the cluster runs 0\.0"):
        check_same_ray(Cluster())


def test_a_job_knows_where_its_study_is(tiny_study: dict[str, Any], tmp_path: Path) -> None:
    cluster, study = Cluster(), StudySpec.parse(tiny_study)
    file = str(write_study(tiny_study, tmp_path))
    assert study_and_job(cluster, file, []) == ("tiny", study.output, None)
    with pytest.raises(SpecError, match="knows no job of it; give its YAML file"):
        study_and_job(cluster, "tiny", [])
    job, _ = submit(cluster, study_submission(study))
    assert study_and_job(cluster, "tiny", []) == ("tiny", study.output, job)
    assert job.metadata["specification"] == study.content_hash()
    assert (job.metadata["tracking"], job.metadata["storage"]) == ("", "")


def test_rows_are_found_among_other_output() -> None:
    text = 'a {warning}\n{"other": 1}\n{\n "study": "x",\n "runs": [{"run": "a"}]\n}\nthe end\n'
    assert rows_in(text) == [{"run": "a"}]
    assert rows_in("Traceback: {nothing}") is None


class Silent(Cluster):
    """A cluster whose dashboard answers nothing, or whose jobs never end."""

    def __init__(self, status: str) -> None:
        super().__init__()
        self.status = status

    def get_job_info(self, name: str) -> SimpleNamespace:
        if not self.status:
            raise OSError("Connection refused")
        value = SimpleNamespace(value=self.status)
        return SimpleNamespace(submission_id=name, status=value, message="", metadata={})


def test_a_cluster_that_is_lost_is_an_error_of_the_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "LOST_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    job = jobs.Job("cola-tiny-1", 1, "RUNNING", "")
    with pytest.raises(ClusterError, match="this does not stop the job: `cola logs`") as lost:
        list(jobs.follow(Silent(""), job))
    assert "Connection refused" in str(lost.value)
    with pytest.raises(ClusterError, match=r"is still running after 0 s; see .*`cola stop --wait`"):
        jobs.wait_for_end(Silent("RUNNING"), job, 0.0)
    assert ClusterError.exit_code != SpecError.exit_code
