"""Names of providers: usual spellings become the conventions' names."""

from __future__ import annotations

import pytest

from genmeter.schema.providers import WELL_KNOWN, well_known


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, name) for name in WELL_KNOWN),
        *((name.upper(), name) for name in WELL_KNOWN),
        ("OpenAI", "openai"),
        ("bedrock", "aws.bedrock"),
        ("AWS", "aws.bedrock"),
        ("Amazon Bedrock", "aws.bedrock"),
        ("bedrock_converse", "aws.bedrock"),
        ("azure", "azure.ai.openai"),
        ("azure-openai", "azure.ai.openai"),
        ("azure_ai", "azure.ai.inference"),
        ("gemini", "gcp.gemini"),
        ("google-gla", "gcp.gemini"),
        ("vertex_ai", "gcp.vertex_ai"),
        ("vertexai", "gcp.vertex_ai"),
        ("google-vertex", "gcp.vertex_ai"),
        ("google_genai", "gcp.gen_ai"),
        ("google", "gcp.gen_ai"),
        ("mistral", "mistral_ai"),
        ("mistralai", "mistral_ai"),
        ("xai", "x_ai"),
        ("x-ai", "x_ai"),
        ("watsonx", "ibm.watsonx.ai"),
    ],
)
def test_usual_spellings_are_well_known(name: str, expected: str) -> None:
    """In any case and with any separator."""
    assert well_known(name) == expected


@pytest.mark.parametrize(
    "name", ["", "vLLM", "together_ai", "My Gateway", "openai-compatible", "ü"]
)
def test_other_names_are_unchanged(name: str) -> None:
    """They are a user's own."""
    assert well_known(name) == name
