import re
from pathlib import Path

import pytest

from docs import build

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", build.PAGES)
def test_the_reference_is_what_the_code_says(name):
    written = (build.REFERENCE / name).read_text(encoding="utf-8")
    assert written == build.PAGES[name](), f"docs/reference/{name} is out of date: run `make docs`"


def test_every_command_explains_itself_and_its_options():
    import typer

    from alignment.cli import app

    for name, command in build._leaves("concord", typer.main.get_command(app)):
        assert command.help, f"{name} has no help"
        for parameter in command.params:
            assert parameter.name == "help" or parameter.help, f"{name}: {parameter.name}"


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda p: p.name
)
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), (
                f"{page.name} links to {target}, which is missing"
            )


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/how-to/*.md")]), ids=lambda p: p.name
)
def test_the_commands_shown_exist(page):
    import typer

    from alignment.cli import app

    known = {name for name, _ in build._leaves("concord", typer.main.get_command(app))}
    for block in re.findall(
        r"```(?:bash|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.S
    ):
        for line in block.splitlines():
            words = line.removeprefix("$ ").split()
            if words[:1] == ["concord"] and not words[1].startswith("-"):
                assert " ".join(words[:2]) in known or " ".join(words[:3]) in known, line
