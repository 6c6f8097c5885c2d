"""Encode the caller's input as JSON."""

import array
import copy
import dataclasses
import enum
import gzip
import io
import json
import math
import os
import platform
import sqlite3
import sys
import tempfile
from base64 import b64decode
from collections import ChainMap, Counter, OrderedDict, UserDict, UserString, defaultdict, deque
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import django.conf
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import QueryDict
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.datastructures import CombinedMultiDict, FileStorage, MultiDict

from recall_sdk import InvalidRequestError
from recall_sdk._requests import encode_body

texts = st.text(st.characters(), max_size=8)  # lone surrogates too
keys = st.one_of(texts, st.integers(), st.floats(), st.booleans(), st.none())
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts)
good_leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)


class Point(NamedTuple):
    x: Any
    y: Any


def nested(leaves, keys):
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(keys, inner, max_size=4),
        ),
        max_leaves=12,
    )


good_values = nested(good_leaves, texts)


def encoded(value, control=None):
    """Encode, and parse strictly."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(encode_body(value, control or {}), parse_constant=refuse)


def refusal(value):
    with pytest.raises(InvalidRequestError) as caught:
        encode_body(value, {})
    error = caught.value
    assert (error.code, error.status, error.may_have_executed) == ("INVALID_JSON", None, False)
    assert error.__cause__ is not None
    assert "\n" not in str(error)
    return str(error)


# ----------------------------------------------------------------------------------------------------- where it goes in


def test_dict_keys_are_at_root():
    """The fields of a dict are the fields of the body."""
    assert encoded({"message": "hi", "n": 1}) == {"message": "hi", "n": 1}


@pytest.mark.parametrize("value", ["hi", 1, 1.5, True, False, 0, "", [1, 2], []])
def test_other_value_becomes_input(value):
    """A value that is not a dict is sent as ``input``, also a falsy one."""
    assert encoded(value) == {"input": value}


def test_no_input_is_empty_object():
    """None means no input."""
    assert encode_body(None, {}) == b"{}"


def test_control_fields_replace_input_fields():
    """A field of the call itself overrides one of the same name in the input."""
    given = {"stream": "yes", "selectedOutputs": 1, "other": 2}
    assert encoded(given, {"stream": True, "selectedOutputs": []}) == {"stream": True, "selectedOutputs": [], "other": 2}
    assert given == {"stream": "yes", "selectedOutputs": 1, "other": 2}


def test_control_fields_beside_other_value():
    """Control fields are sent next to ``input``, or alone."""
    assert encoded(None, {"stream": True}) == {"stream": True}
    assert encoded([1], {"stream": True}) == {"input": [1], "stream": True}


# ------------------------------------------------------------------------------------------------------- what JSON takes


@given(nested(leaves, keys))
@example({True: 1, None: 2, 1.5: 3, 4: 5})
@example({"\ud800": "\udfff"})
@example({1: "a", "1": "b"})
def test_accepts_json_and_rejects_the_rest(value):
    """What json.dumps(allow_nan=False) accepts arrives equal; everything else is rejected."""
    body = value if isinstance(value, dict) else {} if value is None else {"input": value}
    try:
        expected = json.loads(json.dumps(body, allow_nan=False))
    except ValueError:
        refusal(value)
    else:
        assert encoded(value) == expected


def test_accepts_subclasses_of_json_types():
    """Subclasses of JSON's own types are sent as these."""
    color = enum.IntEnum("Color", "RED GREEN")
    assert encoded({"c": color.GREEN, "p": Point(1, 2), "o": OrderedDict(a=1)}) == {"c": 2, "p": [1, 2], "o": {"a": 1}}


def test_same_list_in_two_places_is_no_cycle():
    """A value that appears twice is not a cycle."""
    shared = [1]
    assert encoded({"a": shared, "b": [shared, shared]}) == {"a": [1], "b": [[1], [1]]}


class Lazy(dict):
    """A dict subclass that holds nothing itself."""

    def items(self):
        return [("a", 1)]


if not django.conf.settings.configured:
    django.conf.settings.configure()

SUBCLASSES = {
    "QueryDict": (QueryDict("a=1"), {"a": "1"}),
    "MultiDict": (MultiDict([("a", "1"), ("a", "2")]), {"a": "1"}),
    "CombinedMultiDict": (CombinedMultiDict([MultiDict([("a", "1")]), MultiDict([("b", "2")])]), {"a": "1", "b": "2"}),
    "OrderedDict": (OrderedDict(a=1), {"a": 1}),
    "defaultdict": (defaultdict(list, a=[1]), {"a": [1]}),
    "Counter": (Counter("a"), {"a": 1}),
    "Lazy": (Lazy(), {"a": 1}),
}
django.conf.settings._wrapped = django.conf.empty  # a page of the documentation configures it, too


@pytest.mark.parametrize("name", SUBCLASSES)
def test_dict_subclass_is_sent_alike_with_every_flag(name):
    """What a dict subclass holds is what its ``items()`` returns, with control fields and without; it stays as it is."""
    value, fields = SUBCLASSES[name]
    before = list(value.items())
    assert encoded(value) == fields
    assert encoded(value, {"stream": True}) == {**fields, "stream": True}
    assert list(value.items()) == before


@pytest.mark.skipif(platform.python_implementation() == "PyPy", reason="PyPy's json reads a dict without calling its methods")
def test_nested_dict_subclass_is_sent_alike():
    """A dict subclass inside the input is sent as one that is the input."""
    for control in ({}, {"stream": True}):
        assert encoded({"q": SUBCLASSES["QueryDict"][0], "l": [MultiDict([("b", "2")])]}, control) == {
            "q": {"a": "1"},
            "l": [{"b": "2"}],
            **control,
        }


def test_body_is_utf8():
    """Text is sent as UTF-8, which is half as long as escapes for Chinese, and valid whatever the characters."""
    text = "\u6f22\u5b57 \u00fc \U0001f600 \u2028 \x7f"
    assert encode_body({"t": text}, {}) == b'{"t":"%s"}' % text.encode()
    assert len(encode_body({"t": "\u6f22" * 4000}, {"stream": True})) < 12_100


@given(texts, texts)
@example("\\", "\ud800")
@example("\ud83d", "\ude00")
@example("\\\ud800\u6f22", "\udfff")
def test_lone_surrogates_stay_escapes(key, text):
    """Surrogates without their other half, which UTF-8 has no form for, arrive as with ASCII; the body is valid UTF-8 in any case."""
    body = encode_body({key: text}, {}).decode("utf-8")
    assert json.loads(body) == json.loads(json.dumps({key: text}))


# ----------------------------------------------------------------------------------------------------------- what it rejects


@dataclasses.dataclass
class Order:
    number: int


class Color(enum.Enum):
    RED = "red"


class Model:
    """As a model of Pydantic 2, which has the methods of Pydantic 1, too."""

    __fields__ = ()

    def model_dump(self, mode):
        """Never called."""


class FormerModel:
    """As a model of Pydantic 1."""

    __fields__ = ()


class Table:
    """As the table of pandas, which can be iterated over."""

    def __iter__(self):
        return iter(())

    keys = to_dict = to_records = __iter__


class Scalar:
    """As a number of NumPy."""

    def tolist(self):
        """Never called."""


class Promise:
    """As a lazily translated text of Django."""

    def casefold(self):
        """Never called."""


class Stand:
    """As the proxies of Werkzeug."""

    def __init__(self, target):
        self.target = target

    @property
    def __class__(self):
        return type(self.target)


def rows():
    """Return a row of a database, which is no mapping but has keys."""
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    try:
        return connection.execute("SELECT 1 AS a").fetchone()
    finally:
        connection.close()


UNFIT = [
    (datetime(2026, 1, 1, tzinfo=timezone.utc), "datetime", ".isoformat()"),
    (date(2026, 1, 1), "date", ".isoformat()"),
    (time(12), "time", ".isoformat()"),
    (timedelta(1), "timedelta", ".total_seconds()"),
    (Order(1), "Order", "dataclasses.asdict()"),
    (Model(), "Model", '.model_dump(mode="json")'),
    (FormerModel(), "FormerModel", ".dict()"),
    (Color.RED, "Color", ".value"),
    (UUID(int=0), "UUID", "str()"),
    (Decimal(1), "Decimal", "str() or float()"),
    (Fraction(1, 2), "Fraction", "str() or float()"),
    (Path("x"), type(Path()).__name__, "str(), or open it with mode 'rb' to send the file"),
    (1j, "complex", "str()"),
    (ValueError("x"), "ValueError", "str()"),
    (Promise(), "Promise", "str()"),
    (UserString("x"), "UserString", "str()"),
    (b"x", "bytes", "io.BytesIO() for a file, .decode() for text, or base64"),
    (bytearray(b"x"), "bytearray", "io.BytesIO() for a file, .decode() for text, or base64"),
    (memoryview(b"x"), "memoryview", "io.BytesIO() for a file, .decode() for text, or base64"),
    (array.array("d"), "array", ".tolist()"),
    (Scalar(), "Scalar", ".tolist()"),
    (Table(), "Table", '.to_dict("records")'),
    ({1}, "set", "list()"),
    (frozenset(), "frozenset", "list()"),
    ((item for item in ()), "generator", "list()"),
    (iter([]), "list_iterator", "list()"),
    (range(2), "range", "list()"),
    (deque(), "deque", "list()"),
    ({}.keys(), "dict_keys", "list()"),
    (MappingProxyType({}), "mappingproxy", "dict()"),
    (UserDict(), "UserDict", "dict()"),
    (ChainMap(), "ChainMap", "dict()"),
    (rows(), "Row", "dict()"),
    (Order, "type", "a dict, list, str, number, bool or None"),
    (io.BytesIO, "type", "a dict, list, str, number, bool or None"),
    (Stand(Order(1)), "Stand", "dataclasses.asdict()"),
    (object(), "object", "a dict, list, str, number, bool or None"),
]


@pytest.mark.parametrize(("value", "name", "advice"), UNFIT, ids=[f"{name}-{index}" for index, (_, name, _) in enumerate(UNFIT)])
def test_value_without_json_form_is_rejected_with_place_and_advice(value, name, advice):
    """The message names the place and the type, as in the design, and says what to pass instead."""
    assert refusal({"user": {"created_at": value}}) == f"input.user.created_at: {name} is not JSON serializable; use {advice}"


def test_enum_of_strings_is_sent_as_string():
    """A member that is a string or a number is sent as such, also as a key."""
    name = enum.Enum("Name", {"A": "a"}, type=str)
    assert encoded({"v": name.A, name.A: 1}) == {"v": "a", "a": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_rejected(value):
    """NaN and the infinities, which a server would treat as an empty input, are not sent."""
    assert refusal([0.5, value]) == f"input[1]: {value} is not JSON serializable; use None or a finite number"


@pytest.mark.parametrize("key", [("a", 1), b"a", frozenset(), date(2026, 1, 1)])
def test_key_of_wrong_type_is_rejected(key):
    """A tuple, bytes or anything else that can't be a JSON name is rejected as a key."""
    assert refusal({"a": [{key: 1}]}).startswith(f"input.a[0]: the key {key!r} ({type(key).__name__}) is not JSON serializable")


@pytest.mark.parametrize("key", [math.nan, math.inf])
def test_nan_key_is_rejected(key):
    """NaN is rejected as a key."""
    assert refusal({key: 1}).startswith(f"input: the key {key} (float) is not JSON serializable")


def test_cycle_is_rejected_with_place():
    """A list or dict inside itself is rejected where the cycle closes."""
    value = {"a": [1, {}]}
    value["a"][1]["back"] = value["a"]
    assert refusal(value) == "input.a[1].back: contains itself; JSON has no form for a cycle: leave it out"


def test_deeply_nested_value_is_rejected():
    """A value that is nested too deeply is rejected without a RecursionError."""
    value = []
    for _ in range(200_000):
        value = [value]
    assert refusal(value).startswith("input: maximum recursion depth exceeded")
    while value:  # taken apart by hand: old Pythons do not survive doing it themselves
        value = value.pop()


def test_fault_below_many_levels_is_rejected():
    """A fault that is nested too deeply to name its place is rejected, too."""
    value = object()
    for _ in range(sys.getrecursionlimit() - 100):
        value = [value]
    assert refusal(value).startswith("input")


@pytest.mark.skipif(not hasattr(sys, "set_int_max_str_digits"), reason="this Python writes ints of any length")
def test_int_of_too_many_digits_is_rejected():
    """Python refuses to convert such an int, as a value and as a key."""
    assert refusal({"a": [10**5000]}).startswith("input.a[0]: Exceeds the limit")
    assert refusal({10**5000: 1}).startswith("input: Exceeds the limit")


class Unbound:
    """Raises on any access, like a Flask proxy outside a request."""

    def __getattr__(self, name):
        raise RuntimeError("working outside of request context")


class Unreadable(dict):
    """A dict that can't be iterated over."""

    def items(self):
        raise RuntimeError

    keys = items


def test_input_that_raises_on_access_is_refused():
    """An error that an object raises on access becomes a rejection that names its place in the input."""
    assert refusal({"user": [Unbound()]}) == "input.user[0]: working outside of request context"


@pytest.mark.skipif(platform.python_implementation() == "PyPy", reason="PyPy's json reads a dict without calling its methods")
def test_dict_that_raises_on_iteration_is_refused():
    """A dict that can't be iterated over is rejected, also inside another value."""
    for unreadable in (Unreadable(a=1), {"a": Unreadable(a=1)}):
        with pytest.raises(InvalidRequestError, match=r"^input.*: RuntimeError$"):
            encode_body(unreadable, {})


def test_long_key_is_shortened_in_message():
    """A message stays short, however long a key is."""
    assert len(refusal({"k" * 5000: [{1}]})) < 200
    assert len(refusal({(1,) * 5000: 1})) < 200


def test_place_is_written_as_python_expression():
    """Names follow a dot, other keys and positions are in brackets."""
    assert refusal({"a b": {"x": {1: [set()]}}}).startswith("input['a b'].x[1][0]: set")
    assert refusal([{"line\nbreak": set()}]).startswith("input[0]['line\\nbreak']: set")


steps = st.lists(st.one_of(st.integers(0, 3), st.from_regex(r"[a-z]{1,5}", fullmatch=True)), min_size=1, max_size=6)
bad_values = st.one_of(
    st.sampled_from([math.nan, math.inf, b"x", {1}, datetime(2026, 1, 1), Decimal(1), object(), io.StringIO("x")]),  # noqa: DTZ001 -- a naive one
    st.dictionaries(st.tuples(st.integers()), st.none(), min_size=1, max_size=1),
)


@given(steps, bad_values, st.lists(good_values, min_size=3, max_size=3))
def test_planted_fault_is_reported_with_exact_place(path, bad, siblings):
    """The message has the exact place of a single bad value, and the input is unchanged."""
    value, place = bad, ""
    for step in reversed(path):
        if isinstance(step, int):
            value, place = [*siblings[:step], value, *siblings[step:]], f"[{step}]{place}"
        else:
            value, place = {"0": siblings[0], step: value, "1": siblings[1]}, f".{step}{place}"
    before = repr(value)
    assert refusal(value).startswith(f"input{place}: ")
    assert repr(value) == before


@given(good_values)
def test_input_is_not_modified(value):
    """Encoding does not change the caller's input, also with control fields."""
    before = copy.deepcopy(value)
    encode_body(value, {"stream": True, "selectedOutputs": ["a.b"]})
    assert value == before


# -------------------------------------------------------------------------------------------------------------------- files


def content(file):
    """Take a file's form apart: name, type and bytes."""
    assert set(file) == {"type", "data", "name", "mime"}
    assert file["type"] == "file"
    head, _, data = file["data"].partition(",")
    assert head == f"data:{file['mime']};base64"
    return file["name"], file["mime"], b64decode(data, validate=True)


def test_file_is_encoded_anywhere(tmp_path):
    """A file open for reading in binary becomes the API's form of a file, at any depth."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"hello file")
    with path.open("rb") as file:
        body = encoded({"files": [file, {"again": file}], "n": 1})
        assert encoded(file) == {"input": body["files"][0]}
    assert body["files"][0] == {"type": "file", "data": "data:text/plain;base64,aGVsbG8gZmlsZQ==", "name": "a.txt", "mime": "text/plain"}
    assert body["files"][1]["again"] == body["files"][0]
    assert body["n"] == 1


@pytest.mark.parametrize(
    ("name", "mime"),
    [("a.png", "image/png"), ("A.PDF", "application/pdf"), ("a", "application/octet-stream"), ("a.tar.gz", "application/octet-stream")],
)
def test_file_type_is_guessed_from_name(tmp_path, name, mime):
    """A name without a known extension, or of a compressed file, means plain bytes."""
    (tmp_path / name).write_bytes(b"\0\xff")
    with (tmp_path / name).open("rb") as file:
        assert content(encoded(file)["input"]) == (name, mime, b"\0\xff")


def test_file_position_is_restored():
    """The file is sent from its position, which is then restored."""
    file = io.BytesIO(b"0123456789")
    file.seek(4)
    assert content(encoded(file)["input"]) == ("file", "application/octet-stream", b"456789")
    assert file.tell() == 4


def test_spooled_file_is_encoded():
    """Uploads of web frameworks are sent, and their position is restored, on every Python."""
    with tempfile.SpooledTemporaryFile() as file:
        file.write(b"upload")
        file.seek(2)
        assert content(encoded(file)["input"]) == ("file", "application/octet-stream", b"load")
        assert file.tell() == 2


def test_pipe_is_encoded():
    """A file that can't be rewound is read to its end."""
    end, start = os.pipe()
    os.write(start, b"through")
    os.close(start)
    with os.fdopen(end, "rb") as file:
        assert content(encoded([file])["input"][0]) == ("file", "application/octet-stream", b"through")


@pytest.mark.parametrize("convert", [os.fsencode, Path, str])
def test_file_name_of_any_type(tmp_path, convert):
    """A file opened by bytes or by a Path keeps its name, without the folder."""
    (tmp_path / "a.txt").write_bytes(b"x")
    with io.FileIO(convert(tmp_path / "a.txt")) as file:
        assert content(encoded(file)["input"])[0] == "a.txt"


@pytest.mark.parametrize("name", [3, None, "", object()])
def test_file_without_name_is_called_file(name):
    """A number, as the name of a file opened from a descriptor, is ignored."""
    file = io.BytesIO(b"x")
    file.name = name
    assert content(encoded(file)["input"])[0] == "file"


def test_file_in_text_mode_is_rejected_unread(tmp_path):
    """The message says how to open it; its content is not read."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"\xff\xfe\xff")
    with path.open(encoding="utf-8") as file:
        assert refusal({"a": file}) == "input.a: a file in text mode is not JSON serializable; open it with mode 'rb'"
    with tempfile.SpooledTemporaryFile(mode="w+", encoding="utf-8") as file:
        assert "text mode" in refusal(file)


def test_file_open_for_writing_is_rejected(tmp_path):
    """A file that is open for writing only can't be read."""
    with (tmp_path / "a.bin").open("wb") as file:
        assert refusal({"a": file}) == "input.a: a file open for writing only is not JSON serializable; open it with mode 'rb'"


def test_closed_file_is_rejected():
    """A closed file can't be read."""
    file = io.BytesIO(b"x")
    file.close()
    assert refusal({"a": [file]}).startswith("input.a[0]: I/O operation on closed file")


def test_damaged_file_is_rejected():
    """Any error while reading becomes a rejection that names the place, with the cause chained."""
    whole = gzip.compress(b"x" * 1000)
    with gzip.GzipFile(fileobj=io.BytesIO(whole[:-12])) as file:
        assert refusal({"a": file}).startswith("input.a: the file can't be read (Compressed file ended")


def test_object_whose_read_returns_other_is_rejected():
    """An object whose read method is not that of a file is rejected."""

    class Sensor:
        def read(self, channel):
            return channel

    assert refusal([Sensor()]).startswith("input[0]: the file can't be read (")
    sensor = Sensor()
    sensor.read = lambda: 21.5
    assert "float" in refusal(sensor)
    sensor.read = lambda: "21.5"
    assert "text mode" in refusal(sensor)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_file_content_is_complete(data, position):
    """Any bytes, read from any position, arrive unchanged."""
    file = io.BytesIO(data)
    file.seek(position)
    assert content(encoded({"f": file})["f"])[2] == data[position:]
    assert file.tell() == position


# ---------------------------------------------------------------------------------------------------------------- uploads


def test_upload_of_werkzeug():
    """A FileStorage is sent with the name and type of the upload, not with those of the form's field."""
    upload = FileStorage(io.BytesIO(b"x"), filename="report.pdf", name="document", content_type="application/pdf")
    assert content(encoded({"file": upload})["file"]) == ("report.pdf", "application/pdf", b"x")


def test_upload_of_django():
    """An uploaded file of Django is sent with its name and type."""
    upload = SimpleUploadedFile("docs/report.pdf", b"x", content_type="application/x-report")
    assert content(encoded({"file": upload})["file"]) == ("report.pdf", "application/x-report", b"x")


@pytest.mark.parametrize(
    ("filename", "content_type", "name", "mime"),
    [
        ("a.txt", "text/csv; charset=utf-8", "a.txt", "text/csv"),
        ("a.txt", "", "a.txt", "text/plain"),
        ("a.txt", None, "a.txt", "text/plain"),
        ("a.txt", "no type", "a.txt", "text/plain"),
        (None, "TEXT/CSV", "field.json", "text/csv"),
        ("", None, "field.json", "application/json"),
        (7, 7, "field.json", "application/json"),
    ],
)
def test_upload_with_odd_facts(filename, content_type, name, mime):
    """An upload without a file name or a usable type is treated like any other file."""
    file = io.BytesIO(b"x")
    file.filename, file.content_type, file.name = filename, content_type, "field.json"
    assert content(encoded({"file": file})["file"])[:2] == (name, mime)


def test_asynchronous_file_is_rejected():
    """A file whose read() has to be awaited is rejected with the advice to do so."""

    class Upload:
        async def read(self, size=-1):
            """Never called."""

    reason = "an asynchronous file is not JSON serializable; await its read() and pass the bytes in an io.BytesIO"
    assert refusal({"file": Upload()}) == f"input.file: {reason}"


def test_type_with_a_builtin_name_is_named_with_its_module():
    """A type with the name of a builtin, such as numpy.bool, is shown with its module."""
    misleading = type("bool", (), {"__module__": "numpy"})
    assert refusal({"flag": misleading()}) == "input.flag: numpy.bool is not JSON serializable; use a dict, list, str, number, bool or None"
