"""A real AfterImage job with genmeter: dialogues with a judge, then rows, with a token budget.

    pip install genmeter afterimage==0.18.1
    python examples/afterimage_job.py --dialogs 10 --rows 10 --budget 60000

The models are a stub on loopback that the job starts, so it needs no key and no network. Each
generator gets a `genmeter.GenerationMonitor` with `monitor=`; all else is standard AfterImage. While
the job runs, `curl http://127.0.0.1:9464/metrics` shows its metrics. At the end the monitors' tokens
by model are compared with the server's.

Notes on AfterImage 0.18.1:

- Its stop rules run only after a dialogue or a row is complete, so a budget is exceeded by at most
  one of these per worker. `BudgetStoppingCallback` calls `get_total_token_usage()`.
- A stop cancels the calls of other workers. The stub detects closed connections and counts no tokens
  for them, but a cancel may come just after a response. With one worker, the default here, there are
  no such calls, and both counts are equal to the token.
- It uses the OpenAI client's retries: two more attempts after a 429 or a 5xx, which no monitor sees.
  The stub disables them (`x-should-retry: false`), so each failed request is a failed call.
- Its judges retry a failed call up to three times and report no failures, and its embeddings report
  nothing. So `--fail-share` applies to the two generating models, and the tokens of the embedding
  model are not compared.
- A failed call has no model name. The monitor uses the last one of the same step.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

# No proxy for 127.0.0.1, and no display for plots.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from afterimage import ConversationGenerator, StructuredGenerator
from afterimage.callbacks import ContextualInstructionGeneratorCallback
from afterimage.callbacks.stopping_callbacks import BudgetStoppingCallback
from afterimage.storage import JSONLStorage
from openai_stub import OpenAIStub
from pydantic import BaseModel, Field

from genmeter import (
    EndpointConfig,
    GenerationMonitor,
    MonitorConfig,
    TokenUsageReport,
    process_token_usage,
)

CHAT_MODEL = "chat-large"
JUDGE_MODEL = "judge-mini"
ROW_MODEL = "rows-small"
EMBEDDING_MODEL = "embed-small"
KEY = "the-stub-takes-any"

DOCUMENTS = [
    "A damaged item can be returned for a refund within thirty days of its delivery.",
    "The shipping address of an order can be changed until the parcel leaves the warehouse.",
    "Our team can answer a question about an invoice or a payment method on every working day.",
]


class Ticket(BaseModel):
    """A support ticket, the schema of the structured rows."""

    subject: str
    category: Literal["delivery", "payment", "refund", "other"]
    priority: int = Field(ge=1, le=5)
    order_number: str | None
    tags: list[str] = Field(min_length=1, max_length=4)


def instructions(stub: OpenAIStub, model: str) -> ContextualInstructionGeneratorCallback:
    """Return AfterImage's callback that writes two questions per round about a document."""
    return ContextualInstructionGeneratorCallback(
        api_key=KEY,
        documents=DOCUMENTS,
        model_name=model,
        model_provider_name="openai",
        n_instructions=2,
        llm_create_extras={"base_url": stub.base_url},
    )


async def dialogs(
    stub: OpenAIStub, monitor: GenerationMonitor, options: argparse.Namespace, path: Path
) -> None:
    """Generate judged dialogues of one or two turns, until the number or the budget is reached."""
    generator = ConversationGenerator(
        respondent_prompt="You are a patient support agent of an online shop. Answer briefly.",
        correspondent_prompt="You are a customer of an online shop. Ask one question at a time.",
        api_key=KEY,
        model_name=CHAT_MODEL,
        model_provider_name="openai",
        llm_factory_kwargs={"base_url": stub.base_url},
        auto_improve=True,
        evaluator_model_name=JUDGE_MODEL,
        embedding_provider_config={
            "type": "openai",
            "model": EMBEDDING_MODEL,
            "base_url": stub.base_url,
        },
        storage=JSONLStorage(conversations_path=path),
        monitor=monitor,
        instruction_generator_callback=instructions(stub, CHAT_MODEL),
    )
    await generator.generate(
        num_dialogs=options.dialogs,
        max_turns=2,
        max_concurrency=options.concurrency,
        stopping_criteria=[BudgetStoppingCallback(max_total_tokens=options.budget)],
    )


async def rows(
    stub: OpenAIStub, monitor: GenerationMonitor, options: argparse.Namespace, path: Path
) -> None:
    """Generate structured rows with the rest of the budget."""
    left = None
    if options.budget is not None:
        left = options.budget - process_token_usage().total_tokens
        if left <= 0:
            return
    generator = StructuredGenerator(
        output_schema=Ticket,
        respondent_prompt="You turn a customer's question into a support ticket.",
        correspondent_prompt="You are a customer of an online shop. Ask one question at a time.",
        api_key=KEY,
        model_name=ROW_MODEL,
        model_provider_name="openai",
        llm_factory_kwargs={"base_url": stub.base_url},
        storage=JSONLStorage(conversations_path=path),
        monitor=monitor,
        instruction_generator_callback=instructions(stub, ROW_MODEL),
    )
    await generator.generate(
        num_samples=options.rows,
        max_concurrency=options.concurrency,
        stopping_criteria=[BudgetStoppingCallback(max_total_tokens=left)],
    )


def by_model(report: TokenUsageReport) -> dict[str, dict[str, int]]:
    """Return a report in the format of the server's totals."""
    return {
        row.model_name: {
            "prompt_tokens": row.prompt_tokens,
            "completion_tokens": row.completion_tokens,
            "total_tokens": row.total_tokens,
        }
        for row in report.by_model
    }


def served_tokens(totals: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Return the server's tokens of the models whose calls AfterImage reports."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {
        model: {name: counts[name] for name in names}
        for model, counts in totals.items()
        if model != EMBEDDING_MODEL and counts["total_tokens"]
    }


def lines(path: Path) -> int:
    """Return the number of lines of a file, 0 if it does not exist."""
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def run(options: argparse.Namespace, folder: Path) -> bool:
    """Run the job, print its tokens, and return whether the server has equal counts."""
    random.seed(options.seed)
    started = time.monotonic()
    fail_share = {CHAT_MODEL: options.fail_share, ROW_MODEL: options.fail_share}
    config = MonitorConfig(
        endpoint=EndpointConfig(
            # Enabled in code, it is bound at once, and its address can be printed.
            enabled=not options.no_endpoint,
            port=options.port,
            linger=options.linger,
        )
    )
    with ExitStack() as stack:
        # The monitors are closed last: their endpoint lingers.
        talk = stack.enter_context(GenerationMonitor(folder / "dialogs", config=config))
        table = stack.enter_context(GenerationMonitor(folder / "rows", config=config))
        if talk.endpoint_url:
            print(f"metrics: {talk.endpoint_url}", flush=True)
        with OpenAIStub(seed=options.seed, fail_share=fail_share, latency=options.latency) as stub:
            asyncio.run(dialogs(stub, talk, options, folder / "dialogs.jsonl"))
            asyncio.run(rows(stub, table, options, folder / "rows.jsonl"))
            totals = stub.totals
        report = process_token_usage()
        counted, served = by_model(report), served_tokens(totals)
        result: dict[str, Any] = {
            "endpoint": talk.endpoint_url,
            "dialogs": lines(folder / "dialogs.jsonl"),
            "rows": lines(folder / "rows.jsonl"),
            "budget_spent": options.budget is not None and report.total_tokens >= options.budget,
            "seconds": round(time.monotonic() - started, 2),
            "report": counted,
            "server": totals,
            "equal": counted == served,
        }
        print_summary(report, result)
        if options.json:
            print(json.dumps(result))
        # The reader of a pipe needs the result before the endpoint lingers.
        sys.stdout.flush()
    return counted == served


def print_summary(report: TokenUsageReport, result: dict[str, Any]) -> None:
    """Print the token report, and compare it with the server's counts."""
    print(report)
    spent = ", stopped by its budget" if result["budget_spent"] else ""
    print(f"{result['dialogs']} dialogs and {result['rows']} rows in {result['seconds']} s{spent}")
    served = sum(row["total_tokens"] for row in served_tokens(result["server"]).values())
    verdict = "equal for every model" if result["equal"] else "NOT equal"
    print(f"the monitors counted {report.total_tokens} tokens, the server {served}: {verdict}")


def fail_share(text: str) -> float:
    """Parse a share; with 1 AfterImage would never end."""
    share = float(text)
    if not 0 <= share <= 0.9:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 0.9, got {text}")
    return share


def count(text: str) -> int:
    """Parse a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="A real AfterImage job with genmeter.")
    add = parser.add_argument
    add("--budget", type=count, metavar="TOKENS", help="stop after this many tokens")
    add("--dialogs", type=count, default=10, metavar="N")
    add("--rows", type=count, default=10, metavar="N")
    add("--fail-share", type=fail_share, default=0.0, metavar="X", help="0 to 0.9")
    add("--latency", type=float, default=0.01, metavar="SECONDS", help="latency of each response")
    add("--concurrency", type=count, default=1, metavar="N", help="workers of AfterImage")
    add("--seed", type=int, default=0)
    add("--port", type=int, help="port of the metrics endpoint, 0 for any free")
    add("--no-endpoint", action="store_true", help="do not serve metrics")
    add(
        "--linger",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="at the end, wait this long for a scrape",
    )
    add("--out", type=Path, metavar="FOLDER", help="keep the generated files")
    add("--json", action="store_true", help="print the result as a JSON line at the end")
    return parser.parse_args(argv)


def main() -> int:
    """Run the job; return 0 if the monitors and the server have equal tokens, else 1."""
    options = arguments()
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        return 0 if run(options, options.out) else 1
    with tempfile.TemporaryDirectory() as folder:
        return 0 if run(options, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
