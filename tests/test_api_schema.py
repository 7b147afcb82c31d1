"""Schemathesis over the OpenAPI: whatever is sent, no route answers with a server error."""

import shutil

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from alignment import exchange
from alignment.errors import InputError
from alignment.feedback import credentials
from alignment.feedback.store import Store
from tests.e2e.workspace import PLAIN, PROMPTS, make_workspace
from ui.app import create_app

EXAMPLES = 12


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """The schema of an application, and the headers of an admin's token."""
    folder = make_workspace(tmp_path_factory.mktemp("schema") / "workspace", PROMPTS, PLAIN)
    store = Store(folder / "feedback.db")
    _, token = credentials.create_token(store, "admin", "schemathesis", 1)
    store.close()
    app = create_app(folder, secret=b"a secret of at least thirty-two bytes")
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.app = app
    yield schema, {"Authorization": f"Bearer {token}"}
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    def none(*_):
        raise InputError("There is no hub here.")

    monkeypatch.setattr(exchange, "hub_rows", none)


def test_no_request_makes_a_server_error(api):
    schema, headers = api
    failures, statuses, tried = [], set(), 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def answers(case):
            response = case.call(headers=headers)
            statuses.add(response.status_code)
            assert response.status_code < 500, f"{case.as_curl_command()}: {response.text[:300]}"

        try:
            answers()
        except Exception as error:  # a server that raises does so through the ASGI transport
            failures.append(f"{operation.label}: {error!r:.600}")
        tried += 1
    assert not failures, "\n".join(failures)
    assert tried > 30 and {200, 409, 422} <= statuses, (
        "the requests reach what lies behind the guard"
    )
