"""The configuration of a pipeline: one YAML file, read once, into frozen objects."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from components.evaluator.config import EvaluationConfig, Gate, check_gates
from components.example_validator.config import ValidationConfig
from components.log_example_gen.config import AttributionConfig, JoinConfig, LogsConfig, SamplingConfig, WindowConfig
from components.log_example_gen.parsing import count_name, delay_name, value_name
from components.offline_ab.config import EvidenceConfig, check_evidence
from components.serving_check.config import ServingCheckConfig
from components.trainer.config import TrainingConfig
from models.balancing import AnyBalancer, GramBalancer, Static
from models.features import Feature, check_features
from models.optimizers import OptimizerConfig
from models.presets import ModelConfig
from models.section import Section, UserError
from models.tasks import DEFAULT_TASKS, WEIGHT, TaskConfig, check_tasks
from pipeline.kubeflow.config import KubeflowConfig
from pipeline.monitor.config import MonitorConfig
from pipeline.skew.config import SkewConfig
from pipeline.sweep.config import SweepConfig
from serving.value import value_formula


class ConfigError(UserError):
    """The configuration is wrong; the message has a line per mistake."""


class ServingConfig(Section):
    """Where the model in service lives."""

    model_name: str = Field("ranker", pattern=r"^[A-Za-z0-9_.-]+$", description="Name of the model for TF Serving.")
    repository: str | None = Field(None, description="Root of the model repository; ROOT/models of the run by default.")
    value: str | None = Field(
        None,
        description="What signature `rank` orders candidates by: arithmetic over the probabilities and the items' "
        "numbers, such as pctr + 20 * pctcvr. By default pctcvr, times the item's number `price` if there is one.",
    )
    check: ServingCheckConfig = ServingCheckConfig()


class BeamConfig(Section):
    """Options of Beam, as plain Beam flags."""

    options: tuple[str, ...] = Field(
        ("--runner=FnApiRunner",),
        description="Flags of any of Beam's runners, such as '--runner=FnApiRunner' (README, Engines). "
        "The DirectRunner tries to download a binary first.",
    )


class Config(Section):
    """A pipeline: from logs to a ranker in service."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", description="Name of the pipeline.")
    logs: LogsConfig
    attribution: AttributionConfig = AttributionConfig()
    sampling: SamplingConfig = SamplingConfig()
    window: WindowConfig
    join: JoinConfig = JoinConfig()
    features: Annotated[
        tuple[Feature, ...],
        Field(min_length=1, description="What the model knows of an exposure, from the columns of the exposure log."),
        AfterValidator(check_features),
    ]
    tasks: Annotated[
        tuple[TaskConfig, ...],
        Field(description="The funnel: a task per event of logs.events, in that order."),
        AfterValidator(check_tasks),
    ] = DEFAULT_TASKS
    model: ModelConfig
    balancer: AnyBalancer = Field(Static(name="static"), description="How much each task's gradient counts.")
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    validation: ValidationConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    gates: tuple[Gate, ...] = Field(default=(), description="What a candidate must reach to go into service.")
    evidence: EvidenceConfig = EvidenceConfig()
    serving: ServingConfig = ServingConfig()
    beam: BeamConfig = BeamConfig()
    monitor: MonitorConfig = MonitorConfig()
    skew: SkewConfig = SkewConfig()
    sweep: SweepConfig = SweepConfig()
    kubeflow: KubeflowConfig = KubeflowConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        events = list(self.logs.events)
        labels = [t.label for t in self.tasks]
        if labels != events:
            raise ValueError(
                f"tasks: expected one task per event of logs.events, in that order ({', '.join(events)}), "
                f"got labels {', '.join(labels)}"
            )
        if set(self.attribution.windows) != set(events):
            raise ValueError(
                f"attribution.windows: expected a window for each event of logs.events ({', '.join(events)}), "
                f"got {', '.join(self.attribution.windows)}"
            )
        days = self.window.train_days + self.window.eval_days
        if self.join.keep_days is not None and self.join.keep_days < days:
            raise ValueError(
                f"join.keep_days: expected at least the {days} days of the window (train_days + eval_days), "
                f"got {self.join.keep_days}"
            )
        for event in self.sampling.keep:
            if event not in events:
                raise ValueError(f"sampling.keep: expected events of logs.events ({', '.join(events)}), got '{event}'")
        names = {f.name for f in self.features}
        made = [name for event in events for name in (event, count_name(event), delay_name(event))]
        made += [value_name(event) for event, log in self.logs.events.items() if log.columns.value is not None]
        for label in (*made, "event_time", WEIGHT):
            if label in names:
                raise ValueError(f"features: '{label}' is the name of a label or key, expected another name")
        lists = {f.name for f in self.features if f.kind == "id_list"}
        check_gates(self.gates, self.tasks)
        check_evidence(self.evidence, self.tasks, self.evaluation.slices)
        there = {*names, *self.logs.exposures.extra, *(f"{event}_value" for event in events)}
        for column in self.evidence.extra_columns():
            if column not in there:
                raise ValueError(
                    f"evidence: expected column '{column}' among the features or in logs.exposures.extra, found it in "
                    f"neither"
                )
        for columns in self.evaluation.slices:
            for column in columns:
                if column not in names:
                    raise ValueError(f"evaluation.slices: expected names of features, got '{column}'")
                if column in lists:
                    raise ValueError(f"evaluation.slices: expected features of one value, '{column}' is an id_list")
        for column in self.validation.drift:
            if column not in names:
                raise ValueError(f"validation.drift: expected names of features, got '{column}'")
        for key, section in (("balancer", self.balancer), ("model.heads", self.model.heads)):
            try:
                section.check_tasks(tuple(t.name for t in self.tasks))
            except ValueError as error:
                raise ValueError(f"{key}.{error}") from None
        try:
            self.sweep.check_tasks(self.tasks)
        except ValueError as error:
            raise ValueError(f"sweep.{error}") from None
        try:
            self.monitor.check(names)
        except ValueError as error:
            raise ValueError(f"monitor.{error}") from None
        try:
            self.skew.check(names)
        except ValueError as error:
            raise ValueError(f"skew.{error}") from None
        value_formula(self.serving.value, self.features, self.tasks)
        balancer = self.balancer
        if (
            self.training.strategy != "none"
            and isinstance(balancer, GramBalancer)
            and balancer.level == "parameters"
            and balancer.refresh_every > 1
        ):
            raise ValueError(
                f"balancer.refresh_every: expected 1 with training.strategy: {self.training.strategy} at level "
                f"parameters, got {balancer.refresh_every}"
            )
        return self


def load(path: str | Path, *, logs: str | Path | None = None, overrides: tuple[str, ...] = ()) -> Config:
    """Reads and checks a configuration file.

    Args:
      path: the YAML file. `logs.root`, `validation.schema` and `serving.repository` are relative to its folder.
      logs: takes the place of `logs.root`; relative to the working directory.
      overrides: 'key.path=value' settings that take the place of the file's, values in YAML.

    Raises:
      ConfigError: naming each key's path, what was expected and what came.
    """
    path = Path(path)
    try:
        raw = _parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, got {type(raw).__name__}")
    for override in overrides:
        _override(raw, override)
    if isinstance(raw.get("logs"), dict):
        base = Path.cwd() / logs if logs is not None else path.parent / str(raw["logs"].get("root", "."))
        raw["logs"]["root"] = str(base.resolve())
    for section, key in (("validation", "schema"), ("serving", "repository")):
        value = raw[section].get(key) if isinstance(raw.get(section), dict) else None
        if isinstance(value, str) and "://" not in value:
            raw[section][key] = str((path.parent / value).resolve())
    try:
        return Config.from_json(json.dumps(raw, default=str))
    except ValidationError as error:
        lines = "\n".join(f"  {_explain(e)}" for e in error.errors(include_url=False))
        raise ConfigError(f"{path}: {error.error_count()} mistake(s) in the configuration\n{lines}") from None


def json_schema() -> dict[str, Any]:
    """The JSON schema of the configuration, for editors that complete from it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


class _Loader(yaml.SafeLoader):
    """PyYAML's, which also takes numbers such as 1e-3, without a point or a sign, for numbers, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)


def _override(raw: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}: expected key.path=value, such as training.epochs=2")
    *parents, last = key.split(".")
    node: Any = raw
    for i, name in enumerate(parents):
        node = node[int(name)] if isinstance(node, list) and name.isdigit() else node.setdefault(name, {})
        if not isinstance(node, (dict, list)):
            raise ConfigError(f"--set {override}: {'.'.join(parents[: i + 1])} is a value and has no keys")
    try:
        parsed = _parse_yaml(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from None
    if isinstance(node, list):
        node[int(last)] = parsed
    else:
        node[last] = parsed


def _explain(error: Any) -> str:
    """One mistake as 'key.path: what was expected, what came'."""
    path = ""
    tags = {"id", "id_list", "number", "bucketed"}
    for part in error["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not (path.endswith("]") and part in tags):
            path += f".{part}" if path else str(part)
    kind, came = error["type"], error["input"]
    shown = json.dumps(came, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    if kind == "extra_forbidden":
        return f"{path}: unknown key, expected one of {', '.join(_keys(error['loc'][:-1]))}"
    if kind == "missing":
        return f"{path}: required, but not given"
    if kind in ("union_tag_invalid", "literal_error"):
        expected = error["ctx"].get("expected_tags") or error["ctx"].get("expected")
        key = str(error["ctx"].get("discriminator", "")).strip("'")
        came = came.get(key) if isinstance(came, dict) else came
        return f"{path}{'.' + key if key else ''}: expected one of {expected}, got {came!r}"
    if kind == "union_tag_not_found":
        return f"{path}: required key {error['ctx']['discriminator']} is missing, got {shown}"
    if kind == "value_error":
        message = str(error["ctx"]["error"])
        with_value = "" if "got" in message or isinstance(came, (dict, list)) else f", got {shown}"
        return f"{path}: {message}{with_value}" if path else f"{message}{with_value}"
    message = error["msg"].replace("Input should be", "expected")
    return f"{path}: {message}, got {shown}"


def _keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys that the section at a location may have."""
    sections: list[type[Section]] = [Config]
    for part in location:
        fields = [(f.alias or name, f.annotation, s) for s in sections for name, f in s.model_fields.items()]
        below = [s for name, annotation, _ in fields if name == part for s in _sections_in(annotation)]
        # A part that names no field is the tag of a kind, the number in a list or the key of a mapping.
        tagged = [s for _, annotation, s in fields if part in get_args(annotation)]
        sections = below or tagged or sections
    return list(dict.fromkeys(f.alias or name for s in sections for name, f in s.model_fields.items()))


def _sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [s for inner in get_args(annotation) for s in _sections_in(inner)]
