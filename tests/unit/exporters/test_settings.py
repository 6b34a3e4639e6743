"""Reading the standard environment variables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from genmeter.exporters.settings import ExportSettings, redact

if TYPE_CHECKING:
    from pathlib import Path

    from genmeter.exporters.settings import OtlpSettings


def read(**environ: str) -> ExportSettings:
    """Read the settings."""
    return ExportSettings.from_env(environ)


def otlp(protocol: str = "grpc", **suffixes: str) -> OtlpSettings:
    """Read the settings of the OTLP exporter from variables without their prefix."""
    found = ExportSettings.from_env(environment(protocol, **suffixes))
    assert found.warnings == ()
    return found.otlp["otlp"]


def environment(protocol: str = "grpc", **suffixes: str) -> dict[str, str]:
    """Return variables of the OTLP exporter."""
    named = {f"OTEL_EXPORTER_OTLP_{suffix}": value for suffix, value in suffixes.items()}
    return {
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        **named,
    }


# --- exporters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, ("prometheus",)),
        ("", ("prometheus",)),
        (" , ", ("prometheus",)),
        ("none", ()),
        (" None ", ()),
        ("otlp", ("otlp",)),
        ("prometheus, otlp", ("prometheus", "otlp")),
        ("OTLP,console,otlp", ("otlp", "console")),
        ("otlp_proto_http", ("otlp_proto_http",)),
    ],
)
def test_the_exporters_variable_is_a_list(text: str | None, names: tuple[str, ...]) -> None:
    """OTEL_METRICS_EXPORTER defaults to prometheus, and none empties it."""
    found = ExportSettings.from_env({} if text is None else {"OTEL_METRICS_EXPORTER": text})
    assert found.exporters == names
    assert found.warnings == ()


def test_an_unknown_exporter_is_dropped() -> None:
    """The warning names it and the known ones; the other exporters stay."""
    found = read(OTEL_METRICS_EXPORTER="otpl,console")

    assert found.exporters == ("console",)
    (warning,) = found.warnings
    for part in ("OTEL_METRICS_EXPORTER", "'otpl'", "none, prometheus, otlp, console"):
        assert part in warning


def test_prometheus_is_the_default_without_a_known_exporter() -> None:
    """A list of unknown names counts as unset."""
    found = read(OTEL_METRICS_EXPORTER="otpl")

    assert found.exporters == ("prometheus",)
    assert "using prometheus" in found.warnings[-1]


def test_none_is_ignored_in_a_list_with_exporters() -> None:
    """The exporter stays."""
    found = read(OTEL_METRICS_EXPORTER="none,console")

    assert found.exporters == ("console",)
    assert "'none' in OTEL_METRICS_EXPORTER" in found.warnings[0]


def test_an_endpoint_enabled_in_code_is_added() -> None:
    """The scrape endpoint joins the exporters of the variable."""
    environ = {"OTEL_METRICS_EXPORTER": "console", "OTEL_EXPORTER_PROMETHEUS_PORT": "bad"}
    found = ExportSettings.from_env(environ, with_prometheus=True, host="0.0.0.0", port=1)

    assert found.exporters == ("console", "prometheus")
    assert (found.host, found.port) == ("0.0.0.0", 1)
    assert found.warnings == ()


class Unread(dict[str, str]):
    """Variables that must not be read."""

    def get(self, key: str, default: object = None) -> str:  # type: ignore[override]
        """Return the value, and fail for a variable that is not set."""
        return self[key]


def test_a_disabled_sdk_reads_no_other_variable() -> None:
    """OTEL_SDK_DISABLED=true wins, even over an endpoint that is enabled in code."""
    found = ExportSettings.from_env(Unread(OTEL_SDK_DISABLED=" True "), with_prometheus=True)
    assert found.exporters == ()


def test_variables_of_other_exporters_are_not_read() -> None:
    """Without an exporter, no exporter's variable is read."""
    found = ExportSettings.from_env(Unread(OTEL_SDK_DISABLED="", OTEL_METRICS_EXPORTER="none"))
    assert found == ExportSettings()


@pytest.mark.parametrize(
    ("exporter", "variable"),
    [
        ("console", "OTEL_EXPORTER_PROMETHEUS_PORT"),
        ("console", "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ("console", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"),
        ("prometheus", "OTEL_METRIC_EXPORT_INTERVAL"),
        ("prometheus", "OTEL_EXPORTER_OTLP_HEADERS"),
    ],
)
def test_invalid_values_of_unused_exporters_do_not_warn(exporter: str, variable: str) -> None:
    """A variable without effect is not read."""
    assert read(OTEL_METRICS_EXPORTER=exporter, **{variable: "rubbish"}).warnings == ()


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "attribute", "value"),
    [
        ("OTEL_EXPORTER_PROMETHEUS_PORT", " 9000 ", "port", 9000),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "0", "port", 0),
        ("OTEL_EXPORTER_PROMETHEUS_HOST", " 0.0.0.0 ", "host", "0.0.0.0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", " 1500 ", "interval", 1.5),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "250", "timeout", 0.25),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "ALWAYS_OFF", "exemplar_filter", "always_off"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", " Delta ", "temporality", "delta"),
    ],
)
def test_padding_is_stripped(variable: str, text: str, attribute: str, value: object) -> None:
    """Blanks around a value are ignored."""
    found = read(OTEL_METRICS_EXPORTER="prometheus,otlp", **{variable: text})
    assert getattr(found, attribute) == value
    assert found.warnings == ()


def variables() -> list[str]:
    """Return every variable of all exporters."""
    names = [
        "OTEL_SDK_DISABLED",
        "OTEL_EXPORTER_PROMETHEUS_HOST",
        "OTEL_EXPORTER_PROMETHEUS_PORT",
        "OTEL_METRIC_EXPORT_INTERVAL",
        "OTEL_METRIC_EXPORT_TIMEOUT",
        "OTEL_METRICS_EXEMPLAR_FILTER",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    ]
    suffixes = ("PROTOCOL", "ENDPOINT", "COMPRESSION", "TIMEOUT", "INSECURE", "HEADERS")
    files = ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
    for suffix in (*suffixes, *files):
        names += [f"OTEL_EXPORTER_OTLP_{suffix}", f"OTEL_EXPORTER_OTLP_METRICS_{suffix}"]
    return names


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_counts_as_unset(text: str) -> None:
    """An empty variable changes nothing and does not warn."""
    exporters = "prometheus,otlp,console"
    empty = read(OTEL_METRICS_EXPORTER=exporters, **dict.fromkeys(variables(), text))
    assert empty == read(OTEL_METRICS_EXPORTER=exporters)
    assert empty.warnings == ()


@pytest.mark.parametrize(
    ("variable", "texts", "used"),
    [
        ("OTEL_SDK_DISABLED", ("maybe", "1", "yes"), "false"),
        (
            "OTEL_EXPORTER_PROMETHEUS_PORT",
            ("tcp://10.0.0.1:9464", "-1", "65536", "1.5", "²", "9" * 5000),
            "9464",
        ),
        ("OTEL_METRIC_EXPORT_INTERVAL", ("soon", "0", "-1", "nan", "inf"), "60000"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", ("soon", "0", "-1", "nan", "inf"), "30000"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", ("soon", "0", "10s"), "10000"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", ("soon", "0", "10s"), "10000"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", ("http/json", "tcp"), "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", ("http/json", "tcp"), "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", ("zip", "true"), "none"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ("http://", "http://h:x", "http://[", "a b"), "localhost"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", ("with_sampled_trace", "true"), "trace_based"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", ("deltas",), "cumulative"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            ("exponential",),
            "explicit_bucket_histogram",
        ),
    ],
)
def test_an_invalid_value_warns_and_the_default_is_used(
    variable: str, texts: tuple[str, ...], used: str
) -> None:
    """The warning names the variable and the value that is used instead."""
    exporters = "prometheus,otlp"
    for text in texts:
        found = read(OTEL_METRICS_EXPORTER=exporters, **{variable: text})
        (warning,) = found.warnings
        assert f"{variable}: must be " in warning
        assert used in warning.partition("; using ")[2]
        assert len(warning) < 300
        default = read(OTEL_METRICS_EXPORTER=exporters)
        assert (found.otlp, found.port) == (default.otlp, default.port)
        assert (found.interval, found.timeout) == (default.interval, default.timeout)
        assert not found.needs_sdk


def test_an_invalid_metrics_variable_falls_back_to_the_general_one() -> None:
    """The warning shows the general variable's value."""
    found = ExportSettings.from_env(environment(TIMEOUT="2000", METRICS_TIMEOUT="x"))
    assert found.otlp["otlp"].timeout == 2
    assert found.warnings[0].endswith("using 2000")


def test_metrics_variables_win_over_general_ones() -> None:
    """OTEL_EXPORTER_OTLP_METRICS_* wins over OTEL_EXPORTER_OTLP_*."""
    found = otlp(
        "grpc",
        METRICS_PROTOCOL="HTTP/protobuf",
        TIMEOUT="1",
        METRICS_TIMEOUT="2500",
        COMPRESSION="gzip",
        METRICS_COMPRESSION="none",
        HEADERS="a=1,b=2",
        METRICS_HEADERS="c=3",
    )
    assert (found.protocol, found.timeout, found.compression) == ("http/protobuf", 2.5, "none")
    assert found.headers == (("c", "3"),)


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({}, False),
        ({"OTEL_METRICS_EXEMPLAR_FILTER": "always_on"}, True),
        ({"OTEL_METRICS_EXEMPLAR_FILTER": "always_off"}, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "LowMemory"}, True),
        (
            {
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "BASE2_exponential_bucket_histogram"
            },
            True,
        ),
    ],
)
def test_features_of_the_sdk_need_its_provider(changes: dict[str, str], needs: bool) -> None:
    """Only the SDK has delta sums, exponential histograms and exemplars of all observations."""
    assert read(OTEL_METRICS_EXPORTER="prometheus,otlp", **changes).needs_sdk is needs


# --- the endpoint ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "suffixes", "endpoint", "insecure"),
    [
        ("grpc", {}, "http://localhost:4317", True),
        ("http/protobuf", {}, "http://localhost:4318/v1/metrics", True),
        ("http/protobuf", {"ENDPOINT": "http://h:1"}, "http://h:1/v1/metrics", True),
        ("http/protobuf", {"ENDPOINT": "https://h/base/"}, "https://h/base/v1/metrics", False),
        ("http/protobuf", {"ENDPOINT": "https://h?k=1"}, "https://h/v1/metrics?k=1", False),
        ("http/protobuf", {"METRICS_ENDPOINT": "http://h/as/it/is"}, "http://h/as/it/is", True),
        ("grpc", {"ENDPOINT": "http://h:4317", "INSECURE": "false"}, "http://h:4317", True),
        ("grpc", {"ENDPOINT": "HTTPS://h:4317", "INSECURE": "true"}, "https://h:4317", False),
        ("grpc", {"ENDPOINT": "h:4317"}, "h:4317", False),
        ("grpc", {"ENDPOINT": "h:4317", "INSECURE": "TRUE"}, "h:4317", True),
        (
            "grpc",
            {"ENDPOINT": "h:1", "METRICS_INSECURE": "false", "INSECURE": "true"},
            "h:1",
            False,
        ),
        ("grpc", {"ENDPOINT": "unix:/run/otel", "INSECURE": "true"}, "unix:/run/otel", True),
        ("grpc", {"ENDPOINT": "dns:///h:4317"}, "dns:///h:4317", False),
    ],
)
def test_the_scheme_decides_about_tls(
    protocol: str, suffixes: dict[str, str], endpoint: str, insecure: bool
) -> None:
    """Https means TLS and http does not; INSECURE applies to targets without a scheme only."""
    found = otlp(protocol, **suffixes)
    assert (found.endpoint, found.insecure) == (endpoint, insecure)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_credentials_in_a_url_become_a_header(protocol: str) -> None:
    """The libraries log URLs, so theirs has no user and password."""
    found = otlp(protocol, ENDPOINT="http://me:s3cr%40t@h:1")
    assert "s3cr" not in found.endpoint
    assert found.headers == (("authorization", "Basic bWU6czNjckB0"),)
    assert "bWU6" not in repr(found)


def test_a_header_wins_over_credentials_in_a_url() -> None:
    """An explicit authorization header is kept."""
    found = otlp(ENDPOINT="http://me:pw@h:1", HEADERS="Authorization=Bearer%20x")
    assert found.headers == (("authorization", "Bearer x"),)


# --- headers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("a=1", (("a", "1"),)),
        (" A = 1 , b=x%3Dy%2Cz,,", (("a", "1"), ("b", "x=y,z"))),
        ("authorization=Bearer a=b", (("authorization", "Bearer a=b"),)),
        ("a=", (("a", ""),)),
    ],
)
def test_headers_are_parsed(protocol: str, text: str, headers: tuple[tuple[str, str], ...]) -> None:
    """Names are lowered and values decoded."""
    assert otlp(protocol, HEADERS=text).headers == headers


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize(
    "text",
    [
        "Authorization Bearer s3cr3t",
        "s3cr3t",
        "=s3cr3t",
        "a b=s3cr3t",
        "a=s3cr3t%0Ax",
        "a=s3cr3t\x01",
        "a=s3cr3t%C3%A9",
        "a=s3cr3té",
    ],
)
def test_an_invalid_header_is_dropped_without_showing_it(protocol: str, text: str) -> None:
    """The warning has its position only; the valid headers stay."""
    found = ExportSettings.from_env(environment(protocol, HEADERS=f"b=1,{text},c=2"))
    (warning,) = found.warnings
    assert "header 2 in OTEL_EXPORTER_OTLP_HEADERS" in warning
    assert "s3cr3t" not in f"{warning}{found!r}"
    assert found.otlp["otlp"].headers == (("b", "1"), ("c", "2"))


def test_secrets_are_redacted() -> None:
    """The user part of any URL and every known secret are replaced; the rest stays."""
    text = "http://me:pw@h/x?y@z and grpc://t0ken@h, ab abc http://h/a@b"
    assert redact(text, ("abc", "", "ab")) == (
        "http://***@h/x?y@z and grpc://***@h, *** *** http://h/a@b"
    )


def test_an_invalid_endpoint_is_shown_without_its_password() -> None:
    """A warning about a URL has no credentials."""
    found = ExportSettings.from_env(environment("http/protobuf", ENDPOINT="ftp://me:s3cr3t@h"))
    assert "ftp://***@h" in found.warnings[0]
    assert "s3cr3t" not in found.warnings[0]


# --- certificates ------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("kind", ["CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"])
def test_an_exporter_with_an_unreadable_certificate_is_not_used(
    tmp_path: Path, protocol: str, kind: str
) -> None:
    """It must not push with another trust store; the other exporters stay."""
    environ = environment(protocol, ENDPOINT="https://h", **{kind: str(tmp_path / "no.pem")})
    environ["OTEL_METRICS_EXPORTER"] = "otlp,console"
    found = ExportSettings.from_env(environ)

    assert found.exporters == ("console",)
    (warning,) = found.warnings
    for part in ("'otlp'", f"OTEL_EXPORTER_OTLP_{kind}", "no.pem", "No such file"):
        assert part in warning


def test_a_client_key_needs_its_certificate(tmp_path: Path) -> None:
    """The exporter is not used, and the warning names the missing variables."""
    (tmp_path / "key.pem").write_text("key")
    environ = environment(ENDPOINT="https://h", CLIENT_KEY=str(tmp_path / "key.pem"))
    found = ExportSettings.from_env(environ)
    assert found.exporters == ()
    assert "set OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE or" in found.warnings[0]


def test_certificates_are_ignored_without_tls(tmp_path: Path) -> None:
    """An http endpoint does not need them."""
    found = otlp(ENDPOINT="http://h", CERTIFICATE=str(tmp_path / "no.pem"))
    assert found.certificate is None


def test_the_files_of_a_tls_connection_are_kept(tmp_path: Path) -> None:
    """A metrics variable wins over the general one."""
    for name in ("ca", "key", "cert"):
        (tmp_path / name).write_text(name)
    found = otlp(
        ENDPOINT="https://h",
        CERTIFICATE="/nowhere",
        METRICS_CERTIFICATE=f" {tmp_path / 'ca'} ",
        CLIENT_KEY=str(tmp_path / "key"),
        CLIENT_CERTIFICATE=str(tmp_path / "cert"),
    )
    assert found.certificate == str(tmp_path / "ca")
    assert found.client_key == str(tmp_path / "key")
    assert found.client_certificate == str(tmp_path / "cert")


def test_installed_exporters_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An exporter that a distribution registers is known by its name."""
    info = tmp_path / "some_exporters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-exporters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[opentelemetry_metrics_exporter]\ncarrier = a:B\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert str(tmp_path) in sys.path
    assert read(OTEL_METRICS_EXPORTER="carrier").pushed == ("carrier",)
