"""What the README tells people to type exists, in both languages."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README.ko.md")
_MAKE = re.compile(r"(?:^|[`\s(])make\s+(?:[A-Z_]+=\S+\s+)*([a-z][a-z-]*)", re.MULTILINE)
_MODULE = re.compile(r"python[0-9.]*\s+-m\s+([a-z_][\w.]*)")
_DEPLOYMENT = re.compile(r"prefect deployment run\s+['\"]([^'\"]+)['\"]")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|(?:src|srcset|href)=\"([^\"]+)\"")
_FENCE = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)
_CODE = re.compile(r"```[^\n]*\n.*?```|`[^`\n]+`", re.DOTALL)


def text(name: str) -> str:
    path = ROOT / name
    assert path.is_file(), f"{name} is missing"
    return path.read_text("utf-8")


def code(name: str) -> str:
    """Only fenced blocks and inline code: prose may say "make sure"."""
    return "\n".join(match.group() for match in _CODE.finditer(text(name)))


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z][a-z-]*)\s*:(?!=)", makefile, re.MULTILINE))


def deployment_names() -> set[str]:
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
    names: set[str] = set()
    for entry in entries:
        module, _, function = entry["entrypoint"].rpartition(".")
        source = (ROOT / Path(*module.split("."))).with_suffix(".py").read_text("utf-8")
        match = re.search(rf"@flow\(([^)]*)\)\s*(?:async )?def {function}\b", source)
        given = re.search(r"name=\"([^\"]+)\"", match.group(1)) if match else None
        names.add(f"{given.group(1) if given else function.replace('_', '-')}/{entry['name']}")
    return names


def anchors(markdown: str) -> set[str]:
    """Heading anchors as GitHub makes them."""
    heads = re.findall(r"^#{1,6}\s+(.+)$", _FENCE.sub("", markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", READMES)
def test_make_commands_exist(name: str) -> None:
    asked = set(_MAKE.findall(code(name)))
    assert {"demo", "test"} <= asked
    assert asked - make_targets() == set()


@pytest.mark.parametrize("name", READMES)
def test_modules_exist(name: str) -> None:
    outside = {"pip", "venv", "pytest", "vllm.entrypoints.openai.api_server"}  # vLLM lives in its own environment
    for module in set(_MODULE.findall(code(name))) - outside:
        spec = importlib.util.find_spec(module)
        assert spec is not None, f"{name}: python -m {module}"
        runs = "__name__" in Path(spec.origin or "").read_text("utf-8")
        assert runs or importlib.util.find_spec(f"{module}.__main__"), f"{name}: python -m {module} runs nothing"


@pytest.mark.parametrize("name", READMES)
def test_deployments_exist(name: str) -> None:
    asked = set(_DEPLOYMENT.findall(code(name)))
    assert "cycle/local" in asked
    assert asked - deployment_names() == set()


@pytest.mark.parametrize("name", READMES)
def test_opens_with_the_two_commands(name: str) -> None:
    first = _FENCE.search(text(name))
    assert first is not None
    commands = [line.split("#")[0].strip() for line in first.group(1).splitlines()]
    assert [line for line in commands if line.startswith("make ")] == ["make demo", "make test"]
    assert text(name)[: first.start()].count("\n## ") == 0, "the commands come before the first section"


@pytest.mark.parametrize("name", [*READMES, "docs/ARCHITECTURE.md", "CHANGELOG.md"])
def test_relative_links_exist(name: str) -> None:
    body = _FENCE.sub("", text(name))
    for pair in _LINK.findall(body):
        link = pair[0] or pair[1]
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), f"{name}: {link}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path.read_text("utf-8")), f"{name}: {link}"


@pytest.mark.parametrize("name", READMES)
def test_there_is_a_picture(name: str) -> None:
    assert "docs/wheel.svg" in text(name)
