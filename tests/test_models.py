"""The models: exactly the documented fields, in their order, with their defaults."""

import copy
import dataclasses
import pickle
from typing import Any, Dict, List, Optional, get_type_hints

import pytest

import recall_sdk
from recall_sdk import (
    AsyncExecutionResult,
    BatchItem,
    RateLimitInfo,
    StreamedExecutionResult,
    StreamEvent,
    UsageLimits,
    WorkflowExecutionResult,
    WorkflowStatus,
    models,
)

NEEDED = dataclasses.MISSING
Json = Dict[str, Any]

RESULT = [
    ("success", bool, NEEDED),
    ("output", Optional[Any], None),
    ("error", Optional[str], None),
    ("logs", Optional[List[Any]], None),
    ("metadata", Optional[Json], None),
    ("trace_spans", Optional[List[Any]], None),
    ("total_duration", Optional[float], None),
]

FIELDS = {
    WorkflowExecutionResult: RESULT,
    AsyncExecutionResult: [
        ("success", bool, NEEDED),
        ("task_id", str, NEEDED),
        ("status", str, NEEDED),
        ("created_at", str, NEEDED),
        ("links", Dict[str, str], NEEDED),
    ],
    WorkflowStatus: [("is_deployed", bool, NEEDED), ("deployed_at", Optional[str], None), ("needs_redeployment", bool, False)],
    RateLimitInfo: [("limit", int, NEEDED), ("remaining", int, NEEDED), ("reset", int, NEEDED), ("retry_after", Optional[int], None)],
    UsageLimits: [("success", bool, NEEDED), ("rate_limit", Json, NEEDED), ("usage", Json, NEEDED)],
    StreamedExecutionResult: [*RESULT, ("text", str, ""), ("text_by_block", Dict[str, str], {})],
    StreamEvent: [("type", str, NEEDED), ("block_id", Optional[str], NEEDED), ("chunk", str, NEEDED), ("data", Json, NEEDED)],
}

EXAMPLES = [
    WorkflowExecutionResult(True, {"a": 1}, None, [1], {"duration": 5}, [], 1.5),
    StreamedExecutionResult(True, text="One", text_by_block={"b": "One"}),
    AsyncExecutionResult(True, "t-1", "queued", "", {"status": "/api/jobs/t-1"}),
    WorkflowStatus(True, "2026-01-01T00:00:00Z", True),
    RateLimitInfo(10, 0, 1_800_000_000, 3),
    UsageLimits(True, {"sync": {"limit": 1}}, {"plan": "free"}),
    StreamEvent("chunk", "b", "One", {"blockId": "b", "chunk": "One"}),
]


def default_of(field):
    return field.default if field.default_factory is NEEDED else field.default_factory()


@pytest.mark.parametrize("model", FIELDS)
def test_model_has_documented_fields(model):
    """Names, types, order and defaults are the documented ones; the types can be read at run time, on Python 3.8 too."""
    hints = get_type_hints(model)
    assert [(field.name, hints[field.name], default_of(field)) for field in dataclasses.fields(model)] == FIELDS[model]


def test_models_are_exported():
    """The models are dataclasses with a description, importable from the package."""
    assert {*FIELDS, BatchItem} == {kind for kind in vars(models).values() if dataclasses.is_dataclass(kind)}
    for model in (*FIELDS, BatchItem):
        assert dataclasses.is_dataclass(model)
        assert getattr(recall_sdk, model.__name__) is model
        assert "Attributes:" in model.__doc__


def test_streamed_result_is_subclass_of_result():
    """Code that accepts a result accepts a streamed one, and each has its own dict."""
    one, two = StreamedExecutionResult(True), StreamedExecutionResult(True)
    assert isinstance(one, WorkflowExecutionResult)
    one.text_by_block["b"] = "x"
    assert two.text_by_block == {}


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), dataclasses.replace])
@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: type(model).__name__)
def test_models_pickle_and_copy(model, travel):
    """A model that was copied, pickled or replaced is equal, and a dataclass."""
    assert travel(model) == model
    assert dataclasses.asdict(travel(model)) == dataclasses.asdict(model)
