"""Callers of the application: clients with a session, and Gradio handlers by name."""

from types import SimpleNamespace

import gradio as gr
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import Mount, Route

from ui.sessions import Sessions

SECRET = b"a secret of at least thirty-two bytes"


def client_of(app, name: str | None, csrf: bool = True) -> TestClient:
    """A client with the session of an account."""
    client = TestClient(app, follow_redirects=False)
    if name is not None:
        signer = Sessions(SECRET)
        client.cookies.set(signer.cookie, signer.issue(name))
        if csrf:
            client.headers["X-CSRF-Token"] = client.get("/api/me").json()["csrf"]
    return client


def sign_in(client: TestClient, name: str, secret: str, **more):
    page = client.get("/sign-in")
    token = page.text.split('name="token" value="', 1)[1].split('"', 1)[0]
    form = {"name": name, "password": secret, "token": token}
    return client.post("/sign-in", data=form, **more)


def ranks_of(task: dict) -> dict[str, int]:
    return {c["id"]: rank for rank, c in enumerate(task["completions"], start=1)}


def counted(progress: dict) -> tuple[int, int]:
    return progress["done"], progress["left"]


def walked(router, prefix: str = "") -> set[tuple[str, str]]:
    """Method and path of every route, of the routers included in it as well."""
    found = set()
    for route in router.routes:
        if isinstance(route, Mount):
            found.add(("GET", prefix + route.path))
        elif isinstance(route, APIRoute | Route):
            found |= {(method, prefix + route.path) for method in route.methods - {"HEAD"}}
        else:  # a router included as a whole; its own routes carry its prefix already
            inner = getattr(route, "original_router", None)
            assert inner is not None, f"unknown kind of route: {route!r}"
            found |= walked(inner, prefix + getattr(router, "prefix", ""))
    return found


def handler(app, page: str, name: str):
    """A Gradio handler of a page, by its name."""
    mount = next(r for r in app.routes if isinstance(r, Mount) and r.path == page)
    functions = mount.app.get_blocks().fns.values()
    return next(f.fn for f in functions if f.fn.__name__ == name)


def gradio_request(name: str, **query: str) -> gr.Request:
    signer = Sessions(SECRET)
    cookies = {signer.cookie: signer.issue(name)}
    return gr.Request(request=SimpleNamespace(cookies=cookies, query_params=query, headers={}))
