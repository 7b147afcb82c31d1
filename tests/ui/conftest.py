"""The application on a small workspace: shared by tests that add nothing to it, or a test's own."""

import shutil

import pytest

from alignment.feedback.store import Store
from tests.e2e.workspace import PLAIN, PROMPTS, make_workspace
from tests.ui.client import SECRET
from ui.app import create_app


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """Made once: hashing passwords takes its time."""
    return make_workspace(tmp_path_factory.mktemp("template") / "workspace", PROMPTS, PLAIN)


@pytest.fixture(scope="module")
def shared_workspace(template, tmp_path_factory):
    return shutil.copytree(template, tmp_path_factory.mktemp("shared") / "workspace")


@pytest.fixture(scope="module")
def shared(shared_workspace):
    """An application to which tests add no ranking and no review."""
    return create_app(shared_workspace, secret=SECRET)


@pytest.fixture
def workspace(template, tmp_path):
    return shutil.copytree(template, tmp_path / "workspace")


@pytest.fixture
def app(workspace):
    return create_app(workspace, secret=SECRET)


@pytest.fixture
def store(workspace):
    store = Store(workspace / "feedback.db")
    yield store
    store.close()
