"""Reading denwa.yaml: every error at once, each at its file, line and key."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from config.errors import ConfigError
from config.load import default_path, examine, load

MODELS = "models:\n  echo: {kind: echo}\n"
ROUTES = "routes:\n  - agent: a\n"
RIGHT = MODELS + "agents:\n  a: {model: echo}\n" + ROUTES

Write = Callable[[Mapping[str, str | bytes]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write files by name and return denwa.yaml."""

    def to_disk(files: Mapping[str, str | bytes]) -> Path:
        for name, content in files.items():
            file = tmp_path / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "denwa.yaml"

    return to_disk


def findings(path: Path, env: Mapping[str, str] | None = None) -> list[str]:
    """Every finding on a configuration, file names without their folder."""
    return [str(found).replace(f"{path.parent}/", "") for found in examine(path, env or {}).findings]


def test_the_default_configuration_is_right() -> None:
    """The configuration that comes with Denwa has no finding, not even a warning."""
    examined = examine(default_path(), {})
    assert examined.findings == ()
    assert examined.settings is not None
    assert set(examined.settings.agents) == {"echo", "front-desk", "survey", "after-hours", "reminder"}
    assert examined.settings.models["echo"].slots >= examined.settings.sip.max_calls


def test_every_error_is_reported_at_once(write: Write) -> None:
    """Faults in every section and every file are told together, in the order of files and lines."""
    path = write(
        {
            "denwa.yaml": (
                "sip:\n"
                "  max_calls: twelve\n"
                "  max_call: 3\n"
                "  listen: [sctp:0.0.0.0:5060]\n"
                "  allow: [10.0.0.1/8]\n"
                "  rtp_ports: {first: 10001}\n"
                "  drain_s: -1\n"
                "models:\n"
                "  big: {kind: moshi, workers: [http://x]}\n"
                "routes:\n"
                "  - agent: defalt\n"
                "  - trunk: offic\n"
                "trunks:\n"
                "  office: {addresses: [192.0.2.1]}\n"
                "observability:\n"
                "  log_level: Debug\n"
            ),
            "agents/default.yaml": "modle: big\n",
            "agents/other.yaml": "model: bigg\nanswer_after_s: 500\n",
        }
    )
    assert [line for line in findings(path) if ": warning: " not in line] == [
        "denwa.yaml:2: sip.max_calls: must be a whole number of at least 1 and at most 10000, e.g. 12; got 'twelve'",
        "denwa.yaml:3: sip.max_call: there is no such key; did you mean 'max_calls'?",
        "denwa.yaml:4: sip.listen[0]: must be udp:ADDRESS:PORT or tcp:ADDRESS:PORT, e.g. udp:0.0.0.0:5060; "
        "got 'sctp:0.0.0.0:5060'",
        "denwa.yaml:5: sip.allow[0]: must be an IP address or a network, e.g. 192.0.2.7 or 192.0.2.0/24; "
        "got '10.0.0.1/8'; the network is 10.0.0.0/8",
        "denwa.yaml:6: sip.rtp_ports.first: must be even, RTP on the even port and RTCP on the next, e.g. 10002; "
        "got 10001",
        "denwa.yaml:7: sip.drain_s: must be a number of at least 0, e.g. 30.0; got '-1'",
        "denwa.yaml:9: models.big.checkpoint: kind moshi needs one: a folder, hf://owner/name, or "
        "embedded:front-desk, Denwa's own",
        "denwa.yaml:9: models.big.workers[0]: must be ws://HOST:PORT or wss://HOST:PORT, e.g. ws://10.0.0.5:8300; "
        "got 'http://x'",
        "denwa.yaml:11: routes[0].agent: there is no agent 'defalt'; did you mean 'default'?",
        "denwa.yaml:12: routes[1].agent: is missing; it must be text",
        "denwa.yaml:12: routes[1].trunk: there is no trunk 'offic'; did you mean 'office'?",
        "denwa.yaml:16: observability.log_level: must be one of debug, info, warning, error; got 'Debug'; "
        "did you mean 'debug'?",
        "agents/default.yaml:1: agents.default.model: is missing; it must be text",
        "agents/default.yaml:1: agents.default.modle: there is no such key; did you mean 'model'?",
        "agents/other.yaml:1: agents.other.model: there is no model 'bigg'; did you mean 'big'?",
        "agents/other.yaml:2: agents.other.answer_after_s: must be a number of at least 0 and at most 120, e.g. 0.0; "
        "got '500'",
    ]


def test_load_raises_all_errors(write: Write) -> None:
    """Loading raises one ConfigError that carries every error and no warning."""
    path = write({"denwa.yaml": RIGHT + "  - agent: a\nx: 1\ny: 2\n"})
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert [found.key for found in caught.value.findings] == ["x", "y"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "denwa.yaml:1: there is no such file"),
        ({"denwa.yaml": ""}, "denwa.yaml:1: is empty; begin with models: and routes:"),
        ({"denwa.yaml": "- a\n"}, "denwa.yaml:1: must be a mapping, lines of 'key: value'"),
        ({"denwa.yaml": b"a: 1\nb: \xff\n"}, "denwa.yaml:2: is not UTF-8 text; save it as UTF-8"),
        ({"denwa.yaml": "a:\n\tb: 1\n"}, "denwa.yaml:2: a tab cannot indent YAML; use spaces"),
        ({"denwa.yaml": "a: b: c\n"}, "denwa.yaml:1: is not YAML here: mapping values are not allowed"),
        ({"denwa.yaml": "a: [${X}]\n"}, 'a reference needs quotes: "${NAME}"'),
        ({"denwa.yaml": "a: 1\n---\nb: 2\n"}, "denwa.yaml:2: is not YAML here: a second document begins"),
        ({"denwa.yaml": "a: " + "[" * 40 + "]" * 40}, "denwa.yaml:1: is nested deeper than 32 levels"),
        ({"denwa.yaml": "a: " + "x" * (1 << 20)}, "denwa.yaml:1: is longer than 1048576 bytes"),
        ({"denwa.yaml": RIGHT + "storage: {}\nstorage: {}\n"}, "denwa.yaml:8: storage: is written twice; it stands on"),
        ({"denwa.yaml": RIGHT + "? [a]\n: 1\n"}, "denwa.yaml:7: a key must be one word or number"),
        ({"denwa.yaml": RIGHT + "storage: !!python/name:os.system {}\n"}, "denwa.yaml:7: storage: the tag"),
        ({"denwa.yaml": MODELS + ROUTES}, "denwa.yaml:1: agents: there is none; write agents/NAME.yaml beside this"),
        ({"denwa.yaml": RIGHT, "agents/a.yaml": "model: echo\n"}, "agents/a.yaml:1: agents.a: is defined twice"),
        ({"denwa.yaml": RIGHT, "agents/b.yml": "[\n"}, "agents/b.yml:2: agents.b: is not YAML here"),
        ({"denwa.yaml": RIGHT, "agents/a b.yaml": "model: echo\n"}, "agents/a b.yaml:1: agents.a b: is no name"),
        (
            {"denwa.yaml": RIGHT, "agents/b.yaml": "model: echo\nvoice: NATF0\n"},
            "agents/b.yaml:2: agents.b.voice: models.echo has no voices; write voices: FOLDER there",
        ),
        ({"denwa.yaml": RIGHT, "agents/b.yaml": "model: echo\nvoice: ../x\n"}, "agents.b.voice: "),
        ({"denwa.yaml": RIGHT + "webrtc: {}\n"}, "denwa.yaml:7: webrtc: there is no such key"),
        (
            {"denwa.yaml": RIGHT + "sip: {max_calls: 99, rtp_ports: {first: 10000, last: 10099}}\n"},
            "last at least 10427",
        ),
        ({"denwa.yaml": RIGHT + "sip: {rtp_ports: {first: 10000, last: 9000}}\n"}, "must be above first"),
        ({"denwa.yaml": RIGHT + "sip: {codecs: PCMU}\n"}, "must be a list, each entry one of PCMU, PCMA, G722; got 'P"),
        (
            {"denwa.yaml": RIGHT + "trunks: {o: {addresses: []}}\n"},
            "trunks.o.addresses: is empty; it needs at least one",
        ),
        ({"denwa.yaml": RIGHT + "  - agent: a\n    caller:\n"}, "routes[1].caller: is empty; give a pattern"),
        ({"denwa.yaml": RIGHT + "sip: {drain_s: .inf}\n"}, "sip.drain_s: must be a number of at least 0"),
        (
            {"denwa.yaml": MODELS + ROUTES + "agents: [a]\n"},
            "denwa.yaml:5: agents: must be a mapping of keys to values",
        ),
    ],
)
def test_a_fault_is_named(write: Write, files: Mapping[str, str | bytes], expected: str) -> None:
    """Each kind of fault is said with its place and with what would be right."""
    assert any(expected in line for line in findings(write(files))), findings(write(files))


def test_values_are_typed_by_the_schema(write: Write) -> None:
    """Numbers keep their zeros and ``no`` stays a word where the schema wants text; unquoted or not."""
    text = RIGHT.replace("- agent: a\n", "- agent: a\n    called: 0301\n    caller: no\n") + "sip: {drain_s: '5'}\n"
    settings = load(write({"denwa.yaml": text}), {})
    assert (settings.routes[0].called, settings.routes[0].caller, settings.sip.drain_s) == ("0301", "no", 5.0)


def test_references_are_resolved_and_typed(write: Write, tmp_path: Path) -> None:
    """${NAME}, ${NAME:-default}, ${file:...} and $${ work inside any value, numbers included."""
    (tmp_path / "address").write_text("203.0.113.9\n")
    text = RIGHT + (
        "sip:\n  max_calls: ${CALLS}\n  drain_s: ${DRAIN:-7}5\n"
        f"  external_address: ${{file:{tmp_path}/address}}\n"
        'storage: {transcripts: "/var/$${x}/${NAME:-d}"}\n'
    )
    settings = load(write({"denwa.yaml": text}), {"CALLS": "9", "NAME": "${CALLS}"})
    assert (settings.sip.max_calls, settings.sip.drain_s) == (9, 75.0)
    assert settings.sip.external_address == "203.0.113.9"
    assert settings.storage.transcripts == Path("/var/${x}/${CALLS}")


def test_the_process_environment_is_the_default(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment of its own, load takes the process's."""
    monkeypatch.setenv("DENWA_TEST_CALLS", "5")
    assert load(write({"denwa.yaml": RIGHT + "sip: {max_calls: '${DENWA_TEST_CALLS}'}\n"})).sip.max_calls == 5


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("${NOPE}", "environment variable NOPE is not set; set it, or write ${NOPE:-default}"),
        ("${1a}", "'${1a}' is no reference"),
        ("${A", "'${A' is no reference"),
        ("${file:/nonexistent}", "'/nonexistent' is not a file"),
        ("${file:/dev/zero}", "'/dev/zero' is not a file"),
    ],
)
def test_a_bad_reference_is_named_once(write: Write, value: str, expected: str) -> None:
    """A reference that cannot be resolved is one finding at its key, not two."""
    found = findings(write({"denwa.yaml": RIGHT + f"storage:\n  transcripts: '{value}'\n"}))
    assert len(found) == 1
    assert found[0].startswith("denwa.yaml:8: storage.transcripts: ")
    assert expected in found[0]


@pytest.mark.parametrize(
    "line", ["sip: {max_calls: '${S}'}", "sip: {allow: ['${S}']}", "sip: {codecs: ['${S}']}", "sip: {listen: ['${S}']}"]
)
def test_a_value_from_the_environment_is_never_shown(write: Write, line: str) -> None:
    """What came out of the environment may be a secret: a finding names the reference in its place."""
    found = findings(write({"denwa.yaml": f"{RIGHT}{line}\n"}), {"S": "hunter2"})
    assert len(found) == 1
    assert "hunter2" not in found[0]
    assert "got the value of ${S}" in found[0]


def test_a_name_from_the_environment_is_never_shown(write: Write) -> None:
    """A name that exists nowhere is told by its reference as well."""
    found = findings(write({"denwa.yaml": RIGHT + "  - agent: ${S}\n    called: '1'\n"}), {"S": "hunter2"})
    assert found[0] == "denwa.yaml:7: routes[1].agent: there is no agent ${S}; there are: a"
    assert "hunter2" not in "".join(found)


def test_an_empty_value_is_as_if_not_written(write: Write) -> None:
    """A section or key without a value keeps its default; where "none" is a choice, it is chosen."""
    text = RIGHT + "trunks:\nstorage:\nsip:\n  max_calls:\n  external_address: ${X:-}\n  worker_user:\n"
    settings = load(write({"denwa.yaml": text}), {})
    assert (settings.trunks, settings.sip.max_calls, settings.sip.external_address) == ({}, 12, None)
    assert settings.sip.worker_user is None


def test_anchors_and_merge_keys_work(write: Write) -> None:
    """Values may be shared by anchors and merge keys; a key's own value goes before a merged one."""
    text = "models:\n  echo: &m {kind: echo, slots: 7}\n  b:\n    <<: *m\n    slots: 9\n" + RIGHT.replace(MODELS, "")
    models = load(write({"denwa.yaml": text}), {}).models
    assert (models["b"].kind, models["b"].slots, models["echo"].slots) == ("echo", 9, 7)


def test_an_alias_bomb_is_refused(write: Write) -> None:
    """Aliases that would expand to very many values, or to themselves, are an error and no hang."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "aliases make this file too big" in findings(write({"denwa.yaml": "\n".join(levels)}))[0]
    assert "aliases make this file too big" in findings(write({"denwa.yaml": "a: &a [*a]\n"}))[0]


@pytest.mark.parametrize(
    ("first", "second", "reached"),
    [
        ("agent: a", "called: '1'", False),
        ("called: '1*'", "called: '12'", False),
        ("called: '1*'", "called: '1*', caller: '2'", False),
        ("called: '1*'", "called: '*'", True),
        ("called: '1', caller: '2'", "called: '1'", True),
        ("called: '*'", "caller: '1'", False),
        ("trunk: t", "called: '1'", True),
    ],
)
def test_a_route_that_no_call_reaches_is_a_warning(write: Write, first: str, second: str, reached: bool) -> None:
    """A route behind one that takes all its calls is pointed out, and the configuration still works."""
    first = first if "agent" in first else f"agent: a, {first}"
    text = RIGHT.replace("  - agent: a\n", f"  - {{{first}}}\n  - {{agent: a, {second}}}\n")
    examined = examine(write({"denwa.yaml": text + "trunks: {t: {addresses: [192.0.2.1]}}\n"}), {})
    assert examined.settings is not None
    assert [found.severity for found in examined.findings] == ([] if reached else ["warning"])


@pytest.mark.parametrize("token", ["short", "sixteen characters", "\u00fcmlaut-is-no-token", ""])
def test_a_token_must_be_fit_for_a_header(write: Write, token: str) -> None:
    """One with fewer than 16 characters, or some that no header carries, is refused without being shown."""
    path = write({"denwa.yaml": RIGHT.replace("{kind: echo}", '{kind: echo, token: "${TOKEN}"}')})
    assert findings(path, {"TOKEN": "0123456789abcdef"}) == []
    assert findings(path, {"TOKEN": token}) == [
        "denwa.yaml:2: models.echo.token: must be 16 or more letters, digits or characters of -._~+/, "
        "e.g. what `openssl rand -hex 32` prints"
    ]
