"""README.md and the configuration's table against the code: the example works, commands exist, tables are complete.

The table of the configuration is generated; after a change of the configuration:
    .venv/bin/python -m tests.pipeline.test_readme
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from models.runtime import prepare_process

prepare_process()

import pytest  # noqa: E402
import yaml  # noqa: E402
from typer.main import get_command  # noqa: E402

from components.log_example_gen import attribution  # noqa: E402
from components.log_example_gen.reasons import REASONS  # noqa: E402
from components.log_example_gen.sample import Inspection, inspect  # noqa: E402
from components.log_example_gen.window import resolve_window  # noqa: E402
from models.section import UserError  # noqa: E402
from pipeline.cli import app  # noqa: E402
from pipeline.config import json_schema, load  # noqa: E402

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
TEXT = README.read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(match[1], match[2]) for match in FENCE.finditer(TEXT)]
PROSE = FENCE.sub("", TEXT)
CODE = re.findall(r"`([^`\n]+)`", PROSE)
CONFIGURATION = REPOSITORY / "pipeline" / "configs" / "README.md"
TABLE = re.compile(r"^\| key .*", re.MULTILINE | re.DOTALL)  # to the end of the file


# The table of the configuration.


class Row(NamedTuple):
    path: str
    type: str
    default: str
    meaning: str


STANDARD_TERMS = {
    "learning_rate": "Step size.",
    "beta_1": "Decay of Adam's running mean of gradients.",
    "beta_2": "Decay of Adam's running mean of squared gradients.",
    "epsilon": "Added to the denominator of a step.",
}
"""Meanings of keys that need no description in the code."""

_REQUIRED = object()


def configuration_rows(schema: dict[str, Any]) -> list[Row]:
    """Every key of the configuration, by its path: `.EVENT` is a key of the user's, `[]` each entry of a list."""
    defs = schema["$defs"]

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        return defs[node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node

    def listed(node: dict[str, Any]) -> str | None:
        """The key at the top whose sections are of the same kind."""
        kinds = {kind: node[kind] for kind in ("$ref", "oneOf") if kind in node}
        return next((n for n, p in schema["properties"].items() if kinds and kinds.items() <= p.items()), None)

    def keys(node: dict[str, Any], path: str, given: Any) -> Iterator[Row]:
        for name, prop in node["properties"].items():
            default = prop.get("default", _REQUIRED)
            if isinstance(given, dict) and name in given:
                default = given[name]
            yield from key(prop, f"{path}.{name}" if path else name, default)

    def key(prop: dict[str, Any], path: str, default: Any) -> Iterator[Row]:
        options = [o for o in prop.get("anyOf", ()) if o.get("type") != "null"]
        optional = len(options) < len(prop.get("anyOf", ()))
        inner = options[0] if optional and len(options) == 1 else prop
        section = resolved(inner)
        items, values = inner.get("items", {}), inner.get("additionalProperties") or {}
        described = prop.get("description") or STANDARD_TERMS.get(path.rsplit(".", 1)[-1], "")
        top = "." not in path
        if not top and (like := listed(values) or listed(inner)):
            # Its keys have their rows already.
            kind = "mapping to sections" if values else "section"
            shown = _shown(list(default)) if values and isinstance(default, dict) else ""
            yield Row(path, f"{kind} as `{like}`", shown, described)
        elif section.get("properties"):
            if top or optional:
                meaning = described or _first_sentence(section.get("description", "")) + "."
                yield Row(path, "section", _shown(None if optional else default, section=True), meaning)
            yield from keys(section, path, default)
        elif "oneOf" in inner or "oneOf" in items:
            suffix = "[]" if items else ""
            if top or described:
                yield Row(path, "list of sections" if items else "section", _shown(default, True), described)
            yield from union(items or inner, path + suffix, default)
        elif "$ref" in items:
            yield Row(path, "list of sections", _shown(default), described)
            yield from keys(resolved(items), path + "[]", None)
        elif "$ref" in values:
            yield Row(path, "mapping to sections", _shown(default), described)
            yield from keys(resolved(values), path + ".EVENT", None)
        else:
            yield Row(path, _type(prop), _shown(default), described)

    def union(node: dict[str, Any], path: str, default: Any) -> Iterator[Row]:
        tag = node["discriminator"]["propertyName"]
        sections = [resolved(option) for option in node["oneOf"]]
        variants = {section["properties"][tag]["const"]: section for section in sections}
        kinds = "; ".join(f"`{name}`: {_first_sentence(v['description'])}" for name, v in variants.items()) + "."
        names = _or(list(variants))
        yield Row(f"{path}.{tag}", names, "required", kinds)
        found: dict[Row, list[str]] = {}
        for name, variant in variants.items():
            for row in keys(variant, path, default if isinstance(default, dict) else None):
                if row.path != f"{path}.{tag}":
                    found.setdefault(row, []).append(name)
        for row, of in found.items():
            which = "" if len(of) == len(variants) else f"({', '.join(of)}) "
            yield row._replace(meaning=which + row.meaning)

    return list(keys(schema, "", None))


def configuration_table() -> str:
    rows = configuration_rows(json_schema())
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        path = f"**`{row.path}`**" if "." not in row.path else f"`{row.path}`"
        meaning = row.meaning.replace("|", "\\|")
        lines.append(f"| {path} | {row.type} | {row.default} | {meaning} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def _first_sentence(description: str) -> str:
    """On one line, without its stop."""
    return re.split(r"(?<=[.])\s", " ".join(description.split()), maxsplit=1)[0].rstrip(".")


def _or(names: list[str]) -> str:
    *first, last = [f"`{name}`" for name in names]
    return f"{', '.join(first)} or {last}" if first else last


def _shown(default: Any, section: bool = False) -> str:
    if default is _REQUIRED:
        return "required"
    if default is None or (section and isinstance(default, dict)):
        return ""
    if isinstance(default, str):
        return f"`{_duration(default)}`"
    text = yaml.safe_dump(_durations(default), default_flow_style=True, sort_keys=False, width=1000)
    return "`" + text.strip().removesuffix("...").strip() + "`"


def _durations(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _durations(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_durations(v) for v in value]
    return _duration(value) if isinstance(value, str) else value


def _duration(text: str) -> str:
    match = re.fullmatch(r"(\d+)ms", text)
    if not match:
        return text
    ms = int(match[1])
    sizes = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1} if ms else {"s": 1000}
    return next(f"{ms // size}{unit}" for unit, size in sizes.items() if ms % size == 0)


def _type(prop: dict[str, Any]) -> str:
    if "anyOf" in prop:
        return " or ".join(_type(o) for o in prop["anyOf"] if o.get("type") != "null")
    if "enum" in prop or "const" in prop:
        return _or(prop.get("enum") or [prop["const"]])
    if prop.get("type") == "array":
        return f"list of {_type(prop['items'])}".replace("of list", "of lists")
    if prop.get("type") == "object":
        return f"mapping to {_type(prop['additionalProperties'])}"
    if "ms|s|m|h|d" in prop.get("pattern", ""):
        return "duration"
    if prop.get("format") == "date":
        return "day"
    bounds = []
    if prop.get("type") == "integer" and prop.get("exclusiveMinimum") == 0:
        bounds.append("≥ 1")
    elif "exclusiveMinimum" in prop:
        bounds.append(f"> {prop['exclusiveMinimum']:g}")
    for name, sign in (("minimum", "≥"), ("maximum", "≤"), ("exclusiveMaximum", "<")):
        if name in prop:
            bounds.append(f"{sign} {prop[name]:g}")
    kind = {"string": "text", "boolean": "true or false"}.get(prop["type"], prop["type"])
    return " ".join([kind, ", ".join(bounds)]).strip()


def test_the_table_is_that_of_the_configuration():
    found = TABLE.search(CONFIGURATION.read_text(encoding="utf-8"))[0]
    assert found == configuration_table(), "run: .venv/bin/python -m tests.pipeline.test_readme"


def test_the_table_has_every_key_with_its_meaning():
    listed = re.findall(r"^\| \**`([^`]+)`\** \|.*\| (.*) \|$", configuration_table(), re.MULTILINE)
    assert listed and all(meaning for _, meaning in listed)
    paths = [path for path, _ in listed]
    schema = json_schema()
    assert {path.split(".")[0].removesuffix("[]") for path in paths} == set(schema["properties"])
    # A key's path passes over the name of each section that holds it or ends with the key's own.
    pieces = {piece.removesuffix("[]") for path in paths for piece in path.split(".")}
    known = {name for section in (schema, *schema["$defs"].values()) for name in section.get("properties", ())}
    assert pieces == known | {"EVENT"}


# The example of one's own logs.


def block(language: str, having: str) -> str:
    found = [text for of, text in BLOCKS if of == language and having in text]
    assert len(found) == 1, f"expected one {language} block with {having!r}, found {len(found)}"
    return found[0]


@pytest.fixture
def shop(tmp_path):
    """A folder with the README's logs, made by the README's commands, and its configuration."""
    subprocess.run(["bash", "-euc", block("bash", "cat > shop/")], cwd=tmp_path, check=True)
    (tmp_path / "shop.yaml").write_text(block("yaml", "name: shop"))
    return tmp_path


def look(folder: Path, *overrides: str) -> Inspection:
    config = load(folder / "shop.yaml", overrides=overrides)
    window = resolve_window(config.logs, config.attribution, config.window)
    return inspect(config.logs, config.attribution, config.features, window)


def test_the_example_joins_as_the_readme_says(shop):
    found = look(shop)
    assert found.problems == ()
    assert {check.log: check.rows for check in found.logs} == {"exposures": 11, "click": 6, "purchase": 2}
    exposures, click, purchase = ({k: v for k, v in check.outcomes.items() if v} for check in found.logs)
    assert exposures == {"joined": {"": 8}, "duplicate": {"": 1}, "not_mature": {"": 1}}
    assert click == {"joined": {"": 4}, "orphan": {"no_exposure": 1}, "outside_window": {"after_window": 1}}
    assert purchase == {"joined": {"": 2}}
    assert [(r.reason, r.column, r.rows) for r in found.logs[0].rejected] == [("bad_type", "price", 1)]
    assert found.splits["train"].labels == {"click": 2, "purchase": 1}
    assert found.splits["eval"].labels == {"click": 2, "purchase": 1}
    shown = block("text", "rows of the logs")
    for line in ("exposures    11       8         1          1       0        0       1", "83.3%"):
        assert line in shown


def test_check_prints_what_the_readme_shows(shop):
    from typer.testing import CliRunner

    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["check", "--config", str(shop / "shop.yaml")])
    assert result.exit_code == 0, result.stderr
    printed = {" ".join(line.split()) for line in result.stdout.splitlines()}
    shown = [" ".join(line.split()) for line in block("text", "rows of the logs").splitlines()]
    assert [line for line in shown if line not in printed | {"", "…"}] == []


def mistakes(folder: Path) -> dict[str, str]:
    """Real errors by a word for what was done to provoke them."""

    def error(*overrides: str, without: str | None = None, emptied: str | None = None) -> str:
        kept = {name: (folder / name).read_text() for name in (without, emptied) if name}
        if without:
            (folder / without).unlink()
        if emptied:
            (folder / emptied).write_text(kept[emptied].splitlines()[0] + "\n")
        try:
            return "\n".join(look(folder, *overrides).problems)
        except UserError as raised:
            return str(raised)
        finally:
            for name, text in kept.items():
                (folder / name).write_text(text)

    return {
        "unknown key": error("training.epoch=2"),
        "unknown column": error("features.3.column=cost"),
        "too many bad rows": error("logs.max_rejected=0.05"),
        "time unit": error("logs.exposures.time_unit=ms"),
        "missing day": error(without="shop/clicks/2026-01-02.csv"),
        "empty day": error(emptied="shop/exposures/2026-01-01.csv"),
        "too few days": error("window.train_days=3"),
        "format": error("logs.exposures.format=parquet"),
    }


def test_errors_read_as_in_the_readme(shop):
    table = re.search(r"^\| the message says \|.*?\n\n", TEXT, re.MULTILINE | re.DOTALL)[0]
    listed = [re.findall(r"`([^`]+)`", line.split("|")[1])[0] for line in table.strip().splitlines()[2:]]
    real = {name: text.replace(f"{shop}/", "") for name, text in mistakes(shop).items()}
    unexplained = {name: text for name, text in real.items() if not any(message in text for message in listed)}
    assert unexplained == {}
    source = "\n".join(
        file.read_text() for name in ("pipeline", "components", "serving") for file in (REPOSITORY / name).rglob("*.py")
    )
    for message in listed:
        assert any(message in text for text in (*real.values(), source)), f"no such error: {message}"


# Outcomes.


def test_the_table_of_outcomes_is_complete():
    table = re.search(r"^\| outcome \|.*?\n\n", TEXT, re.MULTILINE | re.DOTALL)[0]
    listed = set()
    for line in table.strip().splitlines()[2:]:
        outcome, reasons = (re.findall(r"`([^`]+)`", cell) for cell in line.split("|")[1:3])
        listed |= {(outcome[0], reason) for reason in reasons or [""]}
    verdicts = {v.outcome(cause) for v in attribution.Verdict for cause in (None, "exposure", "click")}
    # Exposures have no cause, so what a cause's name goes into is not theirs.
    verdicts = {(o, r) for o, r in verdicts if not r.endswith("None")}
    assert {(o, r) for o, r in listed if o != "rejected" and r} == {(o, r) for o, r in verdicts if r}
    assert {o for o, _ in listed} == {o for o, _ in verdicts} | {"rejected", "forgotten", "sampled_out"}
    assert {r for o, r in listed if o == "rejected"} == set(REASONS)
    for reason, sentence in REASONS.items():
        assert f"| `rejected` | `{reason}` | {sentence} |" in table


# Commands, paths and the files that are shown.


def commands() -> dict[tuple[str, ...], Any]:
    def walk(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        if hasattr(command, "commands"):
            for name, child in command.commands.items():
                yield from walk((*path, name), child)
        else:
            yield path, command

    return dict(walk((), get_command(app)))


def mentioned_commands() -> list[str]:
    lines = [line for _, text in BLOCKS for line in text.replace("\\\n", " ").splitlines()]
    starts = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?(?:seesaw|python -m pipeline)(?= )")
    return [starts.sub("", line.strip()).strip() for line in (*lines, *CODE) if starts.match(line.strip())]


def test_every_command_and_option_exists():
    known = commands()
    mentioned = mentioned_commands()
    used = set()
    for line in mentioned:
        words = shlex.split(line, comments=True)
        if words == ["--help"]:
            continue
        path = next((tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in known), None)
        assert path, f"no such command: {line}"
        used.add(path)
        parameters = known[path].params
        options = {option for p in parameters for option in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
        given = [word.split("=")[0] for word in words if word.startswith("-")]
        assert set(given) <= options, f"no such option: {line}"
        if given and "--help" not in given:
            options_needed = [p.opts for p in parameters if p.required and p.param_type_name == "option"]
            missing = [names for names in options_needed if not set(names) & set(given)]
            assert not missing, f"{line}: lacks {missing}"
    assert {("check",), ("schema",), ("run",), ("simulate",), ("dataset", "kuairand")} <= used
    options = {option for command in known.values() for p in command.params for option in p.opts}
    for word in CODE:
        if word.startswith("--"):
            assert word.split()[0].split("=")[0] in options, f"no such option: {word}"


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    lines = "\n".join([*CODE, *(text for _, text in BLOCKS)])
    mentioned = set(re.findall(r"^make (?:[A-Z_]+=\S+ )*([a-z-]+)", lines, re.MULTILINE))
    assert {"demo", "test", "test-modern"} <= mentioned <= targets


def test_every_path_exists():
    folders = ("pipeline", "components", "serving", "models", "tests", ".ci")
    words = {word for code in CODE for word in code.split()}
    paths = {w.rstrip(":,") for w in words if w.split("/")[0] in folders and "/" in w and "NAME" not in w}
    paths |= {w for w in words if w in ("Makefile", "Dockerfile", "pyproject.toml", "uv.lock", "LICENSE")}
    for _, text in BLOCKS:
        paths |= set(re.findall(rf"(?<![\w/.-])(?:{'|'.join(folders[:-1])})/[\w/.-]*\w", text))
    assert len(paths) > 10
    assert [p for p in sorted(paths) if not (REPOSITORY / p).exists()] == []


def test_names_to_add_to_are_there():
    """In the table of where to add a part: each row's line to change is in its file, each test's row in its test."""
    table = re.search(r"^\| to add \|.*?\n\n", TEXT, re.MULTILINE | re.DOTALL)[0]
    rows = [line.split("|")[1:-1] for line in table.strip().splitlines()[2:]]
    assert {row[0].strip() for row in rows} == {"trunk", "heads", "balancer", "component"}
    for row in rows:
        for cell in row[2:]:
            for name, path in re.findall(r"`(\w+)`[^`]* in `([\w/.]+)`", cell):
                assert re.search(rf"\b{name}\b", (REPOSITORY / path).read_text()), f"{path} has no {name}"


def test_tf_serving_is_started_as_by_the_deployment_files():
    shown = block("bash", "docker run --rm -p 8500:8500")
    compose = yaml.safe_load((REPOSITORY / "serving" / "deployment" / "compose.yaml").read_text())
    serving = compose["services"]["serving"]
    assert serving["image"] in shown
    flags = [re.split("=", flag)[0] for flag in re.findall(r"--[a-z_]{6,}\S*", shown)]
    assert len(flags) == 3 and set(flags) <= {re.split("=", flag)[0] for flag in serving["command"]}


def test_json_in_the_readme_parses():
    for language, text in BLOCKS:
        if language == "json":
            json.loads(text)


def rewrite() -> None:
    text = CONFIGURATION.read_text(encoding="utf-8")
    CONFIGURATION.write_text(TABLE.sub(lambda _: configuration_table(), text), encoding="utf-8")


if __name__ == "__main__":
    rewrite()
