"""Reports, verdicts, and how the server starts."""

import socket

import gradio as gr
import pytest

from alignment.errors import ConcordError, StoreError
from alignment.feedback import runs
from alignment.feedback.store import Store
from tests.ui.client import client_of, gradio_request, handler
from ui.app import create_app, serve


def test_reports_are_shut_in_a_sandbox(shared):
    client = client_of(shared, "reviewer")
    answer = client.get("/reports/evaluate-1")
    assert answer.status_code == 200 and "Toxicity fell" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox;") and "allow-scripts" not in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("run_id", ["ppo-1", "nothing", "..%2f..%2fconcord.yaml", "%2e%2e"])
def test_only_reports_of_evaluations_are_served(shared, run_id):
    assert client_of(shared, "reviewer").get(f"/reports/{run_id}").status_code == 404


def test_a_verdict_is_stored_under_the_name_of_the_session(app, store):
    judge = handler(app, "/review", "judge")
    judge("evaluate-1", "accept", "  Well done.\n", gradio_request("reviewer"))
    (review,) = runs.reviews(store, "evaluate-1")
    assert (review.reviewer, review.verdict, review.comment) == ("reviewer", "accept", "Well done.")


@pytest.mark.parametrize(
    ("run_id", "verdict", "comment"),
    [
        ("evaluate-1", None, ""),
        ("evaluate-1", "splendid", ""),
        ("evaluate-1", "accept", "x" * 4001),
        ("ppo-1", "accept", ""),
        ("nothing", "accept", ""),
    ],
)
def test_a_verdict_that_makes_no_sense_is_refused(
    shared, shared_workspace, run_id, verdict, comment
):
    with pytest.raises(gr.Error):
        handler(shared, "/review", "judge")(run_id, verdict, comment, gradio_request("reviewer"))
    assert runs.reviews(Store(shared_workspace / "feedback.db"), "evaluate-1") == []


def test_a_port_in_use_is_said_before_anything_starts(workspace):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConcordError, match=f"Port {port} is already in use"):
            serve(workspace, port=port)


def test_a_folder_without_a_store_is_no_workspace(tmp_path):
    with pytest.raises(StoreError, match="concord init"):
        create_app(tmp_path)
