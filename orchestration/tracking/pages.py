"""Addresses of MLflow's pages that show a study's runs, which its own first pages do not."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request

from cola.records import Kind, Metric, Tag

PAGE_OF_EXPERIMENTS = 1000  # of one request
ANSWER_SECONDS = 5.0  # chosen: a server on this machine answers within a second


def runs_page(experiment: str) -> str:
    """Behind a server's address: the training runs of an experiment in one list, the best NLL
    first, without the study's own run and its restarts."""
    query = {
        "workflowType": "machine_learning",
        "searchFilter": f"tags.{Tag.KIND} = '{Kind.RUN}'",
        "orderByKey": f"metrics.`{Metric.NLL}`",
        "orderByAsc": "true",
    }
    encoded = urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
    return f"#/experiments/{experiment}/runs?{encoded}"


def runs_link(experiment: str) -> str:
    """Markdown of a link to that page, for a note: MLflow opens experiments on an empty one."""
    return f"[all runs in a list]({runs_page(experiment)})"


def study_pages(server: str) -> dict[str, str]:
    """The page of the runs of each study or sweep that a server has, by its name.

    Raises:
        OSError: the server does not answer.
        ValueError: what it answers is not MLflow's.
    """
    request = f"{server}/api/2.0/mlflow/experiments/search?max_results={PAGE_OF_EXPERIMENTS}"
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 (http)
        found = json.load(answer).get("experiments", [])
    return {
        each["name"]: f"{server}/{runs_page(each['experiment_id'])}"
        for each in found
        if each["name"] != "Default"
    }
